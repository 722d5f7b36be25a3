"""The commands, one function each: its signature is the interface, its docstring the help."""
