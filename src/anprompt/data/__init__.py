"""Image sources, few-shot draws and the base/new split."""
