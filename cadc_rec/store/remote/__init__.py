"""Work folders, tables and bundles in an object store, with a local folder as their cache."""
