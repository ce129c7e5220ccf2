"""Files of images and sounds that strangers send, decoded in processes that can be killed."""
