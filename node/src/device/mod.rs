//! Loop devices: how an image becomes a block device.
