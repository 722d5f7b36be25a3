"""Lists of independent runs, and where they are carried out: here, in several processes, or on many machines."""
