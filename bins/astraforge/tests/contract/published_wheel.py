"""Uses a server as programs do that were written for the older system, with its published wheel, unchanged.

Usage: published_wheel.py URL KEY
"""

import sys

from astraforge_toolkit import DeepAgentClient, DeepAgentError, SandboxBackend

base_url, api_key = f"{sys.argv[1]}/api", sys.argv[2]
client = DeepAgentClient(base_url=base_url, api_key=api_key)


def refused(call, status: int, words: str) -> None:
    try:
        call()
    except DeepAgentError as error:
        assert f"status {status}" in str(error) and words in str(error), error
    else:
        raise AssertionError(f"{words}: it was not refused")


# Sessions.
session = client.create_sandbox_session({"memory": "512m", "cpu": "0.5", "idle_timeout_sec": 60, "max_lifetime_sec": 600})
sandbox = session.session_id
assert (session.workspace_path, session.status, session.idle_timeout_sec) == ("/workspace", "ready", 60), session
assert sandbox in [known.session_id for known in client.list_sandbox_sessions()]
assert client.heartbeat_sandbox_session(sandbox)["status"] == "ready"
refused(lambda: client.create_sandbox_session({"image": "--privileged"}), 400, "names no image")
refused(lambda: client.create_sandbox_session({"mode": "lxc"}), 400, "is not a valid choice")
refused(lambda: client.get_sandbox_session("0d5d5f0a-2f0e-4c55-9b43-5b6b6f7f2a10"), 404, "No SandboxSession matches")
refused(lambda: DeepAgentClient(base_url=base_url, api_key="wrong").list_sandbox_sessions(), 401, "Invalid API key")

# Files, byte for byte.
contents = bytes(range(256)) * 4096
assert client.upload_file(sandbox, "/workspace/a.bin", content=contents)["exit_code"] == 0
assert client.get_file_content(sandbox, "/workspace/a.bin") == contents
assert client.upload_file(sandbox, "/workspace/a.py", content="    x = 1\n")["exit_code"] == 0
assert client.get_file_content(sandbox, "/workspace/a.py", encoding="utf-8") == "    x = 1\n"
assert client.upload_file(sandbox, "/etc/passwd", content="x")["exit_code"] == 1
refused(lambda: client.get_file_content(sandbox, "/workspace/none"), 400, "no such file")
refused(lambda: client.get_file_content(sandbox, "/workspace/../etc/passwd"), 400, "leads out of the folders")
artifact = client.export_file(sandbox, "/workspace/a.py", filename="b.py", content_type="text/x-python")
assert (artifact.filename, artifact.content_type, artifact.size_bytes) == ("b.py", "text/x-python", 10), artifact
download = client._session.get(artifact.download_url)
assert download.content == b"    x = 1\n", download

# An agent's backend.
backend = SandboxBackend(None, base_url=base_url, api_key=api_key, session_id=sandbox)
assert backend.shell("echo hello && pwd") == "hello\n/workspace\n"
assert backend.write("/workspace/src/m.txt", "one\n  two\nthree\n").path == "/workspace/src/m.txt"
assert "already exists" in backend.write("/workspace/src/m.txt", "x").error
assert [line.split("\t")[1] for line in backend.read("/workspace/src/m.txt").splitlines()] == ["one", "  two", "three"]
assert backend.read("/workspace/none") == "Error: File '/workspace/none' not found"
assert backend.edit("/workspace/src/m.txt", "  two", "2").occurrences == 1
assert backend.download("/workspace/src/m.txt") == b"one\n2\nthree\n"
assert {entry["path"] for entry in backend.ls_info("/workspace")} >= {"/workspace/a.bin", "/workspace/a.py"}
assert [match["line"] for match in backend.grep_raw("t.*e$", "/workspace/src")] == [3]

# A stop keeps the files, and the next use brings them back; a deletion is for good.
client.stop_sandbox_session(sandbox)
assert client.get_sandbox_session(sandbox).status == "terminated"
assert backend.download("/workspace/src/m.txt") == b"one\n2\nthree\n"
assert client.get_sandbox_session(sandbox).status == "ready"
assert client.get_file_content(sandbox, "/workspace/a.bin") == contents
client.delete_sandbox_session(sandbox)
client.delete_sandbox_session(sandbox)
refused(lambda: client.get_sandbox_session(sandbox), 404, "No SandboxSession matches")

# Conversations with an agent are not served yet, and that is said.
refused(lambda: client.create_conversation({}), 501, "holds no conversations")
print("the published wheel works")
