"""
Starts programs for the tests: one connection, one program.

The first line is a JSON list: the machine (`"1"`, `"2"`, or `"0"` for the server) and the command.  The rest of
the connection is the program's standard input; what it prints goes back, and at last a line with a NUL, the word
`exit` and its status.
"""

import json
import os
import socketserver
import subprocess


class Starter(socketserver.StreamRequestHandler):
    rbufsize = 0  # what follows the first line is for the program

    def handle(self) -> None:
        machine, *command = json.loads(self.rfile.readline())
        if machine != "0":
            with open(f"/machine{machine}") as file:
                command = ["nsenter", "-t", file.read().strip(), "-n", "-u", "-m", *command]
        done = subprocess.run(
            command, cwd="/lab", stdin=self.request, stdout=self.request, stderr=subprocess.STDOUT
        )
        self.wfile.write(b"\0exit %d\n" % done.returncode)


class Agent(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


os.environ["PYTHONPATH"] = "/lab"
Agent(("", 7), Starter).serve_forever()
