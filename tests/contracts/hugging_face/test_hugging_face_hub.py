"""Repositories of the Hub through the real SDK: uploads that go on and commit once, downloads that go on, datasets, rights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from controller.clients.huggingface import Hub, connect
from controller.errors import Permanent, Temporary
from controller.testing.hugging_face import HuggingFaceDouble
from controller.vendors import HuggingFace

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")  # of the SDK's own uploads
Opened = Callable[..., Hub]
CARD = "---\nlicense: apache-2.0\ntags: [turnout]\n---\n# Adapter\n"


def made(folder: Path, *, large: int = 3) -> Path:
    """An artefact: a model card, a configuration, and some large files (the double takes them in parts of 100 kB)."""
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"r": 32}')
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("not this")
    for number in range(large):
        seed = hashlib.sha256(bytes([number])).digest()
        (folder / "checkpoint" / f"model-{number}.safetensors").write_bytes(seed * (1000 + 4000 * number))
    return folder


def commits(double: HuggingFaceDouble, repo: str = "acme/adapter") -> list[str]:
    api = huggingface_hub.HfApi(endpoint=double.url, token=double.token)
    return [each.title for each in api.list_repo_commits(repo)]


def asked(double: HuggingFaceDouble, what: str) -> int:
    return sum(count for name, count in double.ledger()["requests"].items() if name.startswith(what))


@pytest.fixture
def api(double: HuggingFaceDouble) -> huggingface_hub.HfApi:
    return huggingface_hub.HfApi(endpoint=double.url, token=double.token)


# -- uploads -----------------------------------------------------------------------------------------------------


def test_an_artefact_there_and_back(hub: Hub, double: HuggingFaceDouble, tmp_path: Path) -> None:
    folder, seen = made(tmp_path / "out"), []
    assert hub.repositories.ensure("adapter") == hub.repositories.ensure("adapter") == "acme/adapter"
    commit = hub.repositories.upload_folder("adapter", folder, "v1.1.0", progress=lambda done, total: seen.append((done, total)))
    assert commit.new
    assert hub.repositories.revision("adapter") == commit.id
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts)
    assert seen[-1] == (total, total)
    files = {each.name: each for each in hub.repositories.files("adapter", commit.id)}
    names = {"README.md", "config.json", *(f"checkpoint/model-{number}.safetensors" for number in range(3))}
    assert set(files) == {".gitattributes", *names}
    assert all(files[name].same_as(folder / name) for name in names)
    largest = folder / "checkpoint" / "model-2.safetensors"
    assert files["checkpoint/model-2.safetensors"].sha256 == hashlib.sha256(largest.read_bytes()).hexdigest()
    for name in names:
        assert hub.repositories.download("adapter", name, tmp_path / "back" / name, revision=commit.id) == commit.id
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes()
    assert commits(double) == ["v1.1.0", "initial commit"]


def test_only_what_is_new_is_sent(hub: Hub, double: HuggingFaceDouble, tmp_path: Path) -> None:
    folder = made(tmp_path / "out")
    hub.repositories.ensure("adapter")
    first = hub.repositories.upload_folder("adapter", folder, "one")
    before = asked(double, "PUT storage")
    again = hub.repositories.upload_folder("adapter", folder, "two")
    assert (again.id, again.new, asked(double, "PUT storage")) == (first.id, False, before)
    assert asked(double, "POST /api/models/acme/adapter/preupload") == 5
    (folder / "config.json").write_text('{"r": 16}')
    third = hub.repositories.upload_folder("adapter", folder, "three", parent=first.id)
    assert third.new
    assert asked(double, "PUT storage") == before
    assert commits(double) == ["three", "one", "initial commit"]


def test_an_upload_cut_in_the_middle_goes_on_and_commits_once(hub: Hub, double: HuggingFaceDouble, tmp_path: Path) -> None:
    folder = made(tmp_path / "out")  # model-0 in one piece, model-1 in two, model-2 in three
    hub.repositories.ensure("adapter")
    double.fail("PUT /upload/*/3", "cut", bytes=50_000)
    with pytest.raises(Temporary, match=r"send checkpoint/model-2.safetensors .*no answer"):
        hub.repositories.upload_folder("adapter", folder, "v1")
    assert asked(double, "PUT storage") == 1 + 2 + 3
    assert commits(double) == ["initial commit"]
    assert hub.repositories.upload_folder("adapter", folder, "v1").new
    assert asked(double, "PUT storage") == 6 + 3  # model-0 and model-1 are not sent again
    assert commits(double) == ["v1", "initial commit"]


@pytest.mark.parametrize("fault", [{"kind": "lose"}, {"kind": "status", "status": 500, "before": False}], ids=["lose", "500"])
def test_a_commit_whose_answer_is_lost_is_not_made_twice(
    hub: Hub, double: HuggingFaceDouble, tmp_path: Path, fault: dict[str, object]
) -> None:
    folder = made(tmp_path / "out", large=1)
    hub.repositories.ensure("adapter")
    double.fail("POST /api/models/acme/adapter/commit/main", **fault)  # type: ignore[arg-type]
    with pytest.raises(Temporary, match="commit to model acme/adapter"):
        hub.repositories.upload_folder("adapter", folder, "v1")
    again = hub.repositories.upload_folder("adapter", folder, "v1")
    assert (again.new, again.id) == (False, hub.repositories.revision("adapter"))
    assert commits(double) == ["v1", "initial commit"]


@pytest.mark.parametrize(
    "route", ["POST */preupload/main", "POST *.git/info/lfs/objects/batch", "POST *commit/main", "PUT /upload/*"]
)
def test_an_upload_survives_a_server_error_anywhere(hub: Hub, double: HuggingFaceDouble, tmp_path: Path, route: str) -> None:
    folder = made(tmp_path / "out", large=2)
    hub.repositories.ensure("adapter")
    double.fail(route, "status", status=503)
    with pytest.raises(Temporary, match="503"):
        hub.repositories.upload_folder("adapter", folder, "v1")
    assert hub.repositories.upload_folder("adapter", folder, "v1").new
    assert commits(double) == ["v1", "initial commit"]


def test_a_head_that_moved_is_not_written_over(
    hub: Hub, double: HuggingFaceDouble, api: huggingface_hub.HfApi, tmp_path: Path
) -> None:
    folder = made(tmp_path / "out", large=1)
    hub.repositories.ensure("adapter")
    seen = hub.repositories.revision("adapter")
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="other.json", repo_id="acme/adapter", commit_message="somebody else")
    with pytest.raises(Permanent, match=r"has moved on from .*look at what was committed"):
        hub.repositories.upload_folder("adapter", folder, "v1", parent=seen)
    assert asked(double, "PUT storage") == 0
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as refused:
        api.upload_file(path_or_fileobj=b"[]", path_in_repo="x.json", repo_id="acme/adapter", parent_commit=seen)
    assert refused.value.response.status_code == 412
    assert hub.repositories.upload_folder("adapter", folder, "v1").new


def test_uploads_that_cannot_be(hub: Hub, double: HuggingFaceDouble, opened: Opened, tmp_path: Path) -> None:
    folder = made(tmp_path / "out", large=0)
    with pytest.raises(Permanent, match="acme/nowhere is not there"):
        hub.repositories.upload_folder("nowhere", folder, "v1")
    hub.repositories.ensure("adapter")
    with pytest.raises(Permanent, match="403"):
        opened(double, "hf_reader").repositories.upload_folder("adapter", folder, "v1")
    with pytest.raises(Permanent, match=r"403 You don't have the rights to create a model under the namespace \"other\""):
        hub.repositories.ensure("other/adapter")
    with pytest.raises(Permanent, match="Cannot have -- or"):
        hub.repositories.ensure("a--b")
    (folder / "README.md").write_text("---\ntags: one\n---\n")
    with pytest.raises(Permanent, match=r'"tags" must be an array'):
        hub.repositories.upload_folder("adapter", folder, "v1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Permanent, match="has no file to upload"):
        hub.repositories.upload_folder("adapter", tmp_path / "empty", "v1")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("/etc/hostname")
    with pytest.raises(Permanent, match="leads out of"):
        hub.repositories.upload_folder("adapter", folder, "v1")
    assert commits(double) == ["initial commit"]


def test_what_is_not_as_announced_is_refused(double: HuggingFaceDouble, api: huggingface_hub.HfApi, token: str) -> None:
    api.create_repo("acme/adapter")
    announced = {
        "operation": "upload",
        "transfers": ["basic"],
        "objects": [{"oid": hashlib.sha256(b"right").hexdigest(), "size": 5}],
    }
    headers = {"Authorization": f"Bearer {token}"}
    batch = f"{double.url}/acme/adapter.git/info/lfs/objects/batch"
    action = httpx2.post(batch, json=announced, headers=headers).json()["objects"][0]["actions"]["upload"]
    for wrong, code in [(b"wrong", "BadDigest"), (b"longer", "IncompleteBody")]:
        answer = httpx2.put(action["href"], content=wrong)
        assert (answer.status_code, code in answer.text) == (400, True)
    commit = f"{double.url}/api/models/acme/adapter/commit/main"
    header = {"key": "header", "value": {"summary": "x"}}
    file = {"path": "a.bin", "algo": "sha256", "oid": announced["objects"][0]["oid"], "size": 5}  # type: ignore[index]
    for rows, said in [
        ([header, {"key": "lfsFile", "value": file}], "does not exist"),
        ([header, {"key": "file", "value": {"path": "../a", "content": "", "encoding": "base64"}}], "Invalid path"),
        ([header, {"key": "file", "value": {"path": "a", "content": "?", "encoding": "base64"}}], "not base64"),
        ([header, {"key": "move", "value": {"path": "a"}}], "Unknown operation"),
        ([{"key": "file", "value": {"path": "a", "content": "", "encoding": "base64"}}], "header"),
        ([header], "no operation"),
    ]:
        body = "\n".join(map(json.dumps, rows))
        refused = httpx2.post(commit, content=body, headers={**headers, "Content-Type": "application/x-ndjson"})
        assert (refused.status_code, said in refused.text) == (400, True), refused.text
    assert httpx2.post(commit, content=body, headers=headers).status_code == 400
    assert commits(double) == ["initial commit"]


# -- downloads ---------------------------------------------------------------------------------------------------


def test_a_download_cut_off_goes_on_where_it_was(hub: Hub, double: HuggingFaceDouble, tmp_path: Path) -> None:
    content = hashlib.sha256(b"gguf").digest() * 100_000
    double.seed("model", "acme/gguf", {"model.gguf": content}, large=("model.gguf",))
    target, seen = tmp_path / "models" / "model.gguf", []
    double.fail("GET /object/*", "truncate", bytes=2_500_000)
    with pytest.raises(Temporary, match=r"download model.gguf of model acme/gguf"):
        hub.repositories.download("gguf", "model.gguf", target)
    assert not target.exists()
    hub.repositories.download("gguf", "model.gguf", target, progress=lambda done, total: seen.append((done, total)))
    assert 0 < seen[0][0] <= 2_500_000
    assert seen == sorted(seen)  # nothing is fetched again
    assert seen[-1] == (3_200_000, 3_200_000)
    assert target.read_bytes() == content
    assert [path.name for path in target.parent.iterdir()] == ["model.gguf"]


def test_a_part_that_is_not_what_it_should_be_is_thrown_away(hub: Hub, double: HuggingFaceDouble, tmp_path: Path) -> None:
    double.seed("model", "acme/gguf", {"a.gguf": b"a" * 1000, "b.txt": b"b" * 1000}, large=("a.gguf",))
    for name in ("a.gguf", "b.txt"):
        double.fail("GET /object/*" if name == "a.gguf" else "GET /acme/gguf/resolve/*", "truncate", bytes=10)
        with pytest.raises(Temporary):
            hub.repositories.download("gguf", name, tmp_path / name)
        (part,) = tmp_path.glob(".*.part")
        part.write_bytes(b"damaged!" + b"x" * 2)
        with pytest.raises(Temporary, match="another hash"):
            hub.repositories.download("gguf", name, tmp_path / name)
        hub.repositories.download("gguf", name, tmp_path / name)
        assert (tmp_path / name).read_bytes() == name[:1].encode() * 1000


def test_the_token_stays_with_the_hub(hub: Hub, double: HuggingFaceDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    double.seed("model", "acme/gguf", {"a.gguf": b"a"}, private=True, large=("a.gguf",))
    sent: dict[str, bool] = {}
    send = httpx2.Client.send

    def spy(client: httpx2.Client, request: httpx2.Request, **how: object) -> httpx2.Response:
        sent[request.url.path] = "authorization" in request.headers
        return send(client, request, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(httpx2.Client, "send", spy)
    hub.repositories.download("gguf", "a.gguf", tmp_path / "a")
    assert {path.split("/")[1]: had for path, had in sent.items()} == {"acme": True, "object": False}


# -- who may see what --------------------------------------------------------------------------------------------


def test_private_gated_and_missing(hub: Hub, double: HuggingFaceDouble, opened: Opened, tmp_path: Path) -> None:
    commit = double.seed("model", "acme/secret", {"a.txt": b"a"}, private=True)
    double.seed("model", "acme/gated", {"a.txt": b"a"}, gated=True)
    stranger, granted, nobody = (
        opened(double, "hf_poor"),
        opened(double, "hf_granted"),
        connect(HuggingFace(url=double.url), tmp_path),
    )
    assert hub.repositories.revision("acme/secret") == hub.repositories.revision("acme/secret", commit[:12]) == commit
    assert [each.repositories.revision("acme/secret") for each in (stranger, nobody)] == [None, None]
    assert hub.repositories.revision("acme/secret", "v9") is None
    with pytest.raises(Permanent, match=r"404.*private repository is not shown"):
        stranger.repositories.files("acme/secret")
    with pytest.raises(Permanent, match=r"403.*not in the authorized list"):
        stranger.repositories.download("acme/gated", "a.txt", tmp_path / "a")
    with pytest.raises(Permanent, match=r"404.*Entry"):
        hub.repositories.download("acme/gated", "b.txt", tmp_path / "a")
    granted.repositories.download("acme/gated", "a.txt", tmp_path / "a")
    for error, token, path in [
        (RepositoryNotFoundError, "hf_poor", "acme/secret"),
        (RepositoryNotFoundError, False, "acme/nothing"),
        (GatedRepoError, False, "acme/gated"),
    ]:
        with pytest.raises(error):
            huggingface_hub.HfApi(endpoint=double.url, token=token).auth_check(path)


def test_branches_and_tags_are_claimed_once(double: HuggingFaceDouble, api: huggingface_hub.HfApi) -> None:
    commit = double.seed("model", "acme/gguf", {"a/b.txt": b"a", "README.md": CARD.encode()})
    api.create_tag("acme/gguf", tag="v1.0.0")
    api.create_branch("acme/gguf", branch="claim-7f")
    for again in (lambda: api.create_tag("acme/gguf", tag="v1.0.0"), lambda: api.create_branch("acme/gguf", branch="claim-7f")):
        with pytest.raises(HfHubHTTPError, match="409"):
            again()
    assert {each.name: each.target_commit for each in api.list_repo_refs("acme/gguf").tags} == {"v1.0.0": commit}
    info = api.model_info("acme/gguf", revision="v1.0.0", files_metadata=True)
    assert (info.sha, info.card_data and info.card_data.license) == (commit, "apache-2.0")
    assert [each.path for each in api.get_paths_info("acme/gguf", ["a", "none"])] == ["a"]
    with pytest.raises(RevisionNotFoundError):
        api.model_info("acme/gguf", revision="v9")
    api.delete_repo("acme/gguf")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("acme/gguf")
