"""One web page about an adapter or a run, in a single file that needs no network."""
