"""From films to batches: layouts, clips, the Lance clip store, seeded order, augmentation.

`manifest` reads the layouts, `clips` cuts films into clips, `dataset` opens them, `prepare` decodes them once into a
`store`, `batches` puts them into a seeded, resumable order, `augment` varies them on the device.
"""
