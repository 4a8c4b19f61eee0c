"""From a finished experiment to a bundle (`cadc_rec.serving`)."""
