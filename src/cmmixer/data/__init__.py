"""From media files to batches.

`manifest` reads the layouts of data, `segments` and `chunks` cut and decode media files, `dataset` gives clips by index,
`prepare` decodes them once into a `store`, `sampler` and `loader` make batches in a seeded order, and `augment` varies them
on the device.
"""
