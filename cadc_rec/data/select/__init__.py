"""D_full in, D_sel out: which interactions the towers are trained on."""
