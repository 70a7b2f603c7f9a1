"""Augmentation of whole batches on the device; every image draws its own parameters from the generator given."""
