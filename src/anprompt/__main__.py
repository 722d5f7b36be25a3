"""``python -m anprompt`` is the ``anprompt`` command."""

from anprompt.cli import main

main()
