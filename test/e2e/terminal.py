"""Runs a program in a terminal of its own and plays a person: terminal.py STEPS COMMAND ARG…
STEPS is JSON: a list of ["wait", TEXT] (until the terminal has shown it since the last step) and ["send", KEYS].
Prints as JSON what the terminal showed and the program's exit code."""
import json, os, pty, select, signal, sys, time

steps, command = json.loads(sys.argv[1]), sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
shown, mark, deadline, ended = b"", 0, time.time() + 120, False


def read():
    global shown, ended
    if time.time() > deadline:
        os.kill(pid, signal.SIGKILL)
        sys.exit(f"nothing more came after {shown.decode(errors='replace')!r}")
    if select.select([terminal], [], [], 0.1)[0]:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux says EIO where the other side is closed
            data = b""
        ended = ended or data == b""
        shown += data


for action, text in steps:
    if action == "wait":
        while text.encode() not in shown[mark:] and not ended:
            read()
        found = shown.find(text.encode(), mark)
        mark = len(shown) if found < 0 else found + len(text.encode())
    else:
        os.write(terminal, text.encode())
while not ended:
    read()
_, status = os.waitpid(pid, 0)
print(json.dumps({"shown": shown.decode(errors="replace"), "code": os.waitstatus_to_exitcode(status)}))
