"""One optimizer step: what it computes, and how it is launched on the device."""
