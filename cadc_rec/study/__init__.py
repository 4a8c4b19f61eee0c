"""Studies of many experiments, and the page that reports them."""
