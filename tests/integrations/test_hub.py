"""An adapter goes to a hub and comes back; the hub is a small server here that speaks its protocol."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from shirg.errors import UserError
from shirg.integrations.hub import push_to_hub
from shirg.lavida.adapter import ADAPTER_FILES, attach_lora, lora_parameters
from tests.tiny import tiny_model


class Hub(ThreadingHTTPServer):
    """Remembers what is asked of it: repositories made, cards validated, files committed."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.made, self.cards, self.files, self.refuses = [], [], {}, False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self._answer({"error": "not found"}, 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hub = self.server
        if hub.refuses:
            self._answer({"error": "no write access"}, 403)
        elif self.path == "/api/repos/create":
            hub.made.append(json.loads(body))
            self._answer({"url": f"{hub.endpoint}/me/adapter"})
        elif self.path == "/api/validate-yaml":
            hub.cards.append(json.loads(body)["content"])
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self._answer({"files": files})
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer({"success": True, "commitOid": "1" * 40, "commitUrl": f"{hub.endpoint}/me/adapter/commit/1"})

    def _answer(self, content: dict, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words):
        pass


@pytest.fixture
def hub():
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def adapter(tmp_path):
    """The folder of an adapter that does something, with an optimizer state beside it as in a checkpoint."""
    model = tiny_model()
    attach_lora(model, rank=2, seed=3)
    for name, parameter in lora_parameters(model).items():
        if "lora_B" in name:
            parameter.data += 0.1
    folder = model.save_adapter(tmp_path / "checkpoint-1", settings={"base_model": str(tmp_path / "copy")})
    (folder / "optimizer.safetensors").write_bytes(b"large")
    return model, folder


def pushed(hub: Hub, folder, **keywords) -> str:
    return push_to_hub(folder, "me/adapter", endpoint=hub.endpoint, token="hf_not_a_real_one", **keywords)


def test_what_is_pushed_loads_again_and_names_its_base(hub, adapter, tmp_path):
    model, folder = adapter
    assert "/me/adapter/commit/" in pushed(hub, folder, base_model="owner/lavida", private=True)
    assert hub.made[0]["name"] == "adapter"
    assert hub.made[0].get("private") is True or hub.made[0].get("visibility") == "private"
    assert set(hub.files) == {*ADAPTER_FILES, "README.md"}
    assert str(tmp_path) not in b"".join(hub.files.values()).decode("latin-1")
    card = hub.files["README.md"].decode()
    assert card == hub.cards[0] and "base_model: owner/lavida\n" in card
    assert 'Lavida.from_pretrained("owner/lavida")' in card
    assert json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"] == "owner/lavida"
    again = tmp_path / "again"
    again.mkdir()
    for name, content in hub.files.items():
        (again / name).write_bytes(content)
    fresh = tiny_model()
    fresh.load_adapter(again)
    for name, value in lora_parameters(model).items():
        assert torch.equal(lora_parameters(fresh)[name], value)


def test_what_cannot_be_pushed_is_one_line(hub, adapter, tmp_path):
    _, folder = adapter
    with pytest.raises(UserError, match="base_model: the adapter was trained on .*copy, which nobody else can load"):
        pushed(hub, folder)
    with pytest.raises(UserError, match="no adapter_config.json, adapter_model.safetensors"):
        pushed(hub, tmp_path, base_model="owner/lavida")
    with pytest.raises(UserError, match="repo: got 'adapter', must be owner/name"):
        push_to_hub(folder, "adapter", endpoint=hub.endpoint)
    assert not hub.made and not hub.files
    hub.refuses = True
    with pytest.raises(UserError, match="repo: me/adapter was not written .*403"):
        pushed(hub, folder, base_model="owner/lavida")
    hub.shutdown()
    hub.server_close()
    with pytest.raises(UserError, match="repo: me/adapter was not written"):
        pushed(hub, folder, base_model="owner/lavida")


def test_the_embedded_models_adapter_claims_no_base_on_the_hub(hub, adapter):
    _, folder = adapter
    pushed(hub, folder, base_model="nano")
    card = hub.files["README.md"].decode()
    assert "base_model:" not in card.split("---")[1] and 'Lavida.from_pretrained("nano")' in card
