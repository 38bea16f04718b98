"""Which code trained a run, said where it was not the same."""

import json
import os
import shutil
import subprocess
import sys

from reslightning.run.provenance import PACKAGE, changed_code, code_hash, code_version, mixed_code, snapshot


def segment(steps, code, commit=None, dirty=None):
    return {"from_step": steps[0], "to_step": steps[1], "code": code, "commit": commit, "dirty": dirty}


def test_mixed_code():
    one, same = segment((0, 5), "aaa", "c" * 40, False), segment((5, 9), "aaa", "c" * 40, False)
    other = segment((9, 15), "bbb", "c" * 40, True)
    assert mixed_code({"segments": [one, same]}) is None
    assert mixed_code({"segments": [one, same, other | {"to_step": 9}]}) is None  # it trained nothing
    assert mixed_code({"segments": [one, same, other]}) == (
        "mixed code: 2 versions of reslightning trained this run: aaa (commit ccccccccc) at steps 0-5, 5-9; "
        "bbb (commit ccccccccc with edits) at steps 9-15"
    )
    assert changed_code({"segments": [one, same]}) is None
    assert "code changed at step 9: aaa before, bbb from now on" in changed_code({"segments": [one, same, other]})


def test_a_snapshot_is_the_same_code_and_says_where_it_is_from(tmp_path):
    snapshot(tmp_path / "code")
    code = (
        "import json, reslightning.run.provenance as p; from reslightning.cli.configs import available_configs;"
        "print(json.dumps([p.code_hash(), p.code_version(), str(p.PACKAGE), available_configs()]))"
    )
    environ = {"PYTHONPATH": str(tmp_path / "code"), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    found, version, package, configs = json.loads(done.stdout)
    assert package == str(tmp_path / "code" / "reslightning")
    assert found == code_hash()
    assert tuple(version) == code_version()
    assert "overlays/fast" in configs


def test_an_edited_checkout_is_dirty(tmp_path):
    package = tmp_path / "reslightning"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=n@localhost"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "notes.txt").write_text("beside the package")
    found = []
    for _ in range(2):
        code = "import json, reslightning.run.provenance as p; print(json.dumps(p.code_version()))"
        environ = {
            "PYTHONPATH": str(tmp_path),
            "PYTHONSAFEPATH": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PATH": os.environ["PATH"],
        }
        done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
        (package / "errors.py").write_text((package / "errors.py").read_text() + "# edited\n")
    (commit, clean), (same, edited) = found
    assert len(commit) == 40
    assert (same, clean, edited) == (commit, False, True)
