"""What embedding, search and evaluation need of a model, whoever made it.

`interface` the protocol, `ours` a finetune run, `plugins` other packages' encoders by name, `loading` what `--model` means,
`pe_av` Meta's PE-AV, `hub` runs on the Hugging Face Hub.
"""
