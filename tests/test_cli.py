"""`cnn`: verbs, exit codes, one-line errors, `list` and `doctor`."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from cnn import cli, doctor, listing, paths
from cnn.errors import UserError
from cnn.tables import Entry

ROOT = Path(__file__).resolve().parent.parent
NO_COVERAGE = {k: v for k, v in os.environ.items() if not k.startswith("COV")}


@pytest.fixture
def verb(monkeypatch):
    """Installs a verb `try` whose main is the given function, and runs it."""

    def run(main, *argv: str) -> int:
        module = types.ModuleType("cnn_try_verb")
        module.main = main
        monkeypatch.setitem(sys.modules, "cnn_try_verb", module)
        monkeypatch.setitem(cli.VERBS, "try", Entry("cnn_try_verb:main", "a test's"))
        return cli.main(["try", *argv])

    return run


def raises(error: BaseException, cause: BaseException | None = None):
    def main(argv):
        raise error from cause

    return main


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_verb(argv, capsys):
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.VERBS)


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cnn 0.")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["xyzzy"], "Valid: convert, data, doctor"),
        (["--versoin"], "did you mean 'cnn --version'?"),
        (["--config=x"], "options come after the verb"),
        (["list", "modles"], "Did you mean 'models'?"),
        (["list", "models", "resnet81"], "Did you mean 'resnet18'?"),
        (["list", "--jsno"], "Did you mean '--json'?"),
        (["list", "models", "a", "b"], "unexpected argument 'b'"),
        (["doctor", "--jsn=1"], "Did you mean '--json'?"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(argv, said, capsys):
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err and captured.err.count("\n") == 1
    assert ": error: " in captured.err


def test_exit_codes_pass_through(verb):
    assert verb(lambda argv: None) == 0
    assert verb(lambda argv: 3) == 3
    assert verb(lambda argv: len(argv), "a", "b") == 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("config.x: bad\nvalue"), "cnn try: error: config.x: bad value"),
        (OSError(errno.ENOSPC, "full", "/a/b"), "No space left on device: /a/b: make room"),
        (OSError(errno.EROFS, "ro", "/a/b"), "Read-only file system: /a/b: choose a folder"),
        (PermissionError(errno.EACCES, "no", "/a/b"), "Permission denied: /a/b"),
        (ValueError("Error writing: No space left on device"), "No space left on device: make room"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "lower --config.input.batch_size"),
        (MemoryError(), "out of memory"),
    ],
)
def test_errors_of_the_user_and_of_the_system(verb, capsys, error, said):
    assert verb(raises(error)) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_a_wrapped_system_error_is_found(verb, capsys):
    assert verb(raises(RuntimeError("save failed"), OSError(errno.ENOSPC, "full", "/c"))) == 2
    assert "No space left on device: /c" in capsys.readouterr().err


def test_absl_flag_errors_are_the_user_s(verb, capsys):
    from absl import flags

    assert verb(raises(flags.UnrecognizedFlagError("confg", suggestions=["config"]))) == 2
    err = capsys.readouterr().err
    assert "config" in err and err.count("\n") == 1


def test_interrupt_ends_with_130_and_one_line(verb, capsys):
    assert verb(raises(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "cnn try: interrupted\n"


def test_a_bug_keeps_its_traceback_and_asks_for_a_report(verb, capsys):
    assert verb(raises(ZeroDivisionError("boom"))) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and "ZeroDivisionError: boom" in lines
    assert "bug of cnn" in lines[-1] and "cnn doctor --json" in lines[-1]


def test_a_broken_pipe_of_another_kind_is_a_bug(verb, capsys):
    assert verb(raises(BrokenPipeError(errno.EPIPE, "a worker is gone"))) == 1


def test_a_reader_that_leaves_is_no_error():
    program = f"{sys.executable} -m cnn list --json | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1].removeprefix("{") in ("0", "141")


@pytest.mark.parametrize(
    "argv", [["--help"], ["list"], ["list", "--help"], ["--version"], ["convert", "--help"]], ids=" ".join
)
def test_light_verbs_answer_in_half_a_second_without_jax(argv):
    program = (
        "import sys; from cnn import cli\n"
        "try: code = cli.main(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'jax', 'numpy', 'matplotlib', 'tensorflow_datasets'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", program, *argv], cwd=ROOT, env=NO_COVERAGE, capture_output=True, text=True
        )
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    assert min(seconds) < 0.5


@pytest.mark.parametrize("module", ["cnn", "cnn.cli"])
def test_module_forms(module):
    command = [sys.executable, "-m", module, "list", "kinds"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("cnn list: error: unknown kind")


def test_a_verb_s_module_runs_without_being_imported_twice():
    command = [sys.executable, "-W", "error", "-m", "cnn.listing", "models", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"]


def test_ctrl_c_in_a_child_process():
    program = (
        "import signal, sys, types, time; from cnn import cli\n"
        "from cnn.tables import Entry\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background shell has it ignored
        "module = types.ModuleType('m'); sys.modules['m'] = module\n"
        "def main(argv): print('ready', flush=True); time.sleep(20)\n"
        "module.main = main; cli.VERBS['try'] = Entry('m:main', '')\n"
        "sys.exit(cli.run('try', []))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (130, "cnn try: interrupted\n")


# --- list


def test_list_without_a_kind_shows_everything(capsys):
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(f"{kind} (" in out for kind in listing.KINDS)


@pytest.mark.parametrize("kind", listing.KINDS)
def test_list_json_of_each_kind(kind, capsys):
    assert cli.main(["list", kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)[kind]
    assert rows and all(row["name"] and row["about"] for row in rows)


def test_list_models_says_what_they_are_made_of(capsys, monkeypatch):
    assert cli.main(["list", "models", "resnet50", "--json"]) == 0
    row = next(r for r in json.loads(capsys.readouterr().out)["models"] if r["name"] == "resnet50")
    assert row["parameters"] == 25_557_032 and round(row["macs"] / 1e9, 2) == 4.09
    assert row["input"] == [224, 224, 3] and row["channels"] == [256, 512, 1024, 2048]
    assert cli.main(["list", "models", "resnet50"]) == 0
    assert re.search(r"(?m)^resnet50 +25,557,032 +4\.089 +224x224x3 +4x256 8x512", capsys.readouterr().out)
    monkeypatch.setattr("cnn.models.facts.stored", lambda: {})
    assert cli.main(["list", "models", "resnet50"]) == 2
    assert "python -m cnn.models.facts" in capsys.readouterr().err


def test_list_matches_parts_and_globs():
    rows = [("resnet18", "a"), ("resnet50", "b"), ("mlp", "c")]
    assert listing.matching("models", rows, "NET") == rows[:2]
    assert listing.matching("models", rows, "*50") == rows[1:2]
    with pytest.raises(UserError, match="Did you mean 'resnet18'"):
        listing.matching("models", rows, "resnet81")


def test_list_reads_configs_without_running_them(tmp_path, monkeypatch):
    folder = tmp_path / "configs" / "classification"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text('"""First line.\n\nMore."""\nraise SystemExit\n')
    (folder / "b.py").write_text("def broken(:\n")
    (folder / "c.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    rows = listing.configs()
    assert [Path(name).name for name, _ in rows] == ["a.py", "b.py", "c.py"]
    assert rows[0] == (os.path.join("configs", "classification", "a.py"), "First line.")
    assert "cannot be read" in rows[1][1] and rows[2][1] == "(no docstring)"


def test_list_configs_outside_a_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "checkout", lambda: None)
    assert listing.configs() == []
    assert cli.main(["list", "configs"]) == 2
    assert "no configs/ folder" in capsys.readouterr().err
    assert cli.main(["list", "models"]) == 0


# --- doctor


@pytest.fixture
def quick_devices(monkeypatch):
    found = {"backend": "cpu", "processes": 1, "devices": [{"id": 0, "kind": "cpu", "platform": "cpu"}]}
    finding = doctor.Finding("devices", doctor.OK, "1 x cpu")
    monkeypatch.setattr(doctor, "devices", lambda: ([finding], found))


def test_doctor_json(quick_devices, capsys):
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] and report["versions"]["jax"] and report["jax"]["backend"] == "cpu"
    assert {"cores", "memory_gib", "disk_free_gib"} == report["machine"].keys()
    assert {finding["status"] for finding in report["findings"]} <= {"ok", "missing"}


def test_doctor_text_gives_the_line_that_mends(quick_devices, monkeypatch, capsys):
    real = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda n: None if n == "scikit-learn" else real(n))
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if "extra [data]" in line)
    assert "scikit-learn is not installed" in lines[at]
    assert lines[at + 1].strip() == "fix: pip install -e '.[data]'"


def test_doctor_ends_with_1_when_the_core_is_broken(quick_devices, monkeypatch, capsys):
    real = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda n: "0.1" if n == "flax" else real(n))
    assert cli.main(["doctor"]) == 1
    assert "flax 0.1 is not" in capsys.readouterr().out


def test_doctor_asks_jax_in_a_child_process():
    findings, found = doctor.devices()
    assert findings[0].status == doctor.OK
    assert found["backend"] == "cpu" and len(found["devices"]) == 8


def test_doctor_survives_a_jax_that_fails_or_hangs(monkeypatch):
    monkeypatch.setattr(doctor, "DEVICES_PROGRAM", "raise RuntimeError('no driver')")
    (finding,), found = doctor.devices()
    assert finding.status == doctor.BROKEN and "no driver" in finding.about and not found
    monkeypatch.setattr(doctor, "DEVICES_PROGRAM", "import time; time.sleep(60)")
    (finding,), found = doctor.devices(timeout=0.5)
    assert finding.status == doctor.BROKEN and "did not start within" in finding.about


def test_doctor_names_an_accelerator_that_is_not_used(monkeypatch):
    printed = json.dumps({"backend": "cpu", "processes": 1, "devices": [{"kind": "cpu"}]})
    monkeypatch.setattr(doctor, "DEVICES_PROGRAM", f"print({printed!r})")
    monkeypatch.setattr(doctor, "accelerators", lambda: [("gpu", "gpu", True), ("tpu", "tpu", False)])
    findings, _ = doctor.devices()
    assert [f.name for f in findings] == ["devices", "gpu"]
    assert findings[1].fix == "pip install -e '.[gpu]'"


def test_doctor_reads_an_installed_package_without_a_checkout(monkeypatch):
    lines = ["numpy>=2", "cnn[data]; extra == 'dev'", 'scikit-learn>=1; extra == "data"']
    monkeypatch.setattr(paths, "checkout", lambda: None)
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    found = doctor.requirements()
    assert {extra: [r.name for r in group] for extra, group in found.items()} == {
        "": ["numpy"],
        "data": ["scikit-learn"],
        "dev": [],
    }
    assert doctor.install_line("data") == "pip install 'cnn[data]'"


def test_doctor_finds_data_and_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CNN_DATA_DIR", str(tmp_path / "data"))
    assert doctor.data()[1]["prepared"] == []
    version = tmp_path / "data" / "digits" / "1.0.0"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text("{}")
    (tmp_path / "cache" / "xla").mkdir(parents=True)
    (tmp_path / "cache" / "xla" / "entry").write_bytes(b"0" * 2**20)
    assert doctor.data()[1]["prepared"] == [os.path.join("digits", "1.0.0")]
    assert doctor.cache()[1] | {"path": ""} == {"path": "", "files": 1, "mib": 1.0}


def test_doctor_sees_folders_that_cannot_be_written(tmp_path, monkeypatch):
    blocking = tmp_path / "file"
    blocking.write_text("")
    monkeypatch.setenv("CNN_CACHE_DIR", str(blocking))
    monkeypatch.delenv("CNN_DATA_DIR")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert doctor.cache()[0].status == doctor.MISSING
    assert doctor.data()[0].status == doctor.MISSING


def test_paths(tmp_path, monkeypatch):
    for name in ("CNN_CACHE_DIR", "CNN_DATA_DIR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.compile_cache_dir() == tmp_path / ".cache" / "cnn" / "xla"
    assert paths.data_dir() == tmp_path / ".cache" / "cnn" / "data"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    assert paths.data_dir() == tmp_path / "tfds"
    assert paths.checkout() == ROOT
