"""What embedding, search and evaluation need of a model, whoever made it.

`interface` the protocol, `ours` a finetune run, `plugins` other packages' encoders by name, `loading` what `--model` means,
`pe_av` Meta's PE-AV, `hub` runs on the Hugging Face Hub.
"""

from cmmixer.encoders.interface import Encoder
from cmmixer.encoders.loading import device_named, load_encoder
from cmmixer.encoders.ours import ModelEncoder

__all__ = ["Encoder", "ModelEncoder", "device_named", "load_encoder"]
