"""Methods that let several layers use one weight."""
