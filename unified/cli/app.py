"""The `unified` command, which the files beside this one add their commands to."""

from tyro.extras import SubcommandApp

app = SubcommandApp()
