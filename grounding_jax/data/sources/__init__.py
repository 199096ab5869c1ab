"""One module for each public dataset, and the registry of all of them."""
