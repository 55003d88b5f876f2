"""The door to Kubernetes clusters: objects by server-side apply, and which of their fields are ours.

Applied fields belong to the field manager `turnout`. Whoever changes one takes it over, and the server keeps the account
(`managedFields`); so `owned` shows what is still as we sent it, without knowing what the server added by itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from controller.errors import Permanent, Temporary
from controller.settings import Settings

CALL_SECONDS = 8.0
PAGE = 500
MANAGER = "turnout"


class Foreign(Permanent):
    """An object of this name is somebody else's: it is not touched."""


class Kubernetes:
    """Clusters by kubeconfig context ("" = the current one, or the pod's service account).

    Raises Temporary when a cluster does not answer or the credentials lack a right, Permanent for an object that it refuses.
    """

    def __init__(self, settings: Settings) -> None:
        self.environment = settings.environment
        self._clients: dict[str, Any] = {}

    def objects(self, context: str, api: str, plural: str, namespace: str, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """All with these labels, by name."""
        group, _, version = api.partition("/")
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found: list[dict[str, Any]] = []
        following: dict[str, Any] = {}
        while True:
            more = {"label_selector": selector, "limit": PAGE, "_request_timeout": CALL_SECONDS, **following}
            custom = self._custom(context)
            page = self._call(
                f"{plural} of {namespace}",
                partial(custom.list_namespaced_custom_object, group, version, namespace, plural, **more),
            )
            found += page["items"]
            token = page["metadata"].get("continue", "")
            if not token:
                return sorted(found, key=lambda each: str(each["metadata"]["name"]))
            following = {"_continue": token}

    def get(self, context: str, api: str, plural: str, namespace: str, name: str) -> dict[str, Any] | None:
        group, _, version = api.partition("/")
        found = self._call(
            f"{plural} {namespace}/{name}",
            lambda: self._custom(context).get_namespaced_custom_object(
                group, version, namespace, plural, name, _request_timeout=CALL_SECONDS
            ),
            missing=True,
        )
        return None if found is None else dict(found)

    def apply(
        self,
        context: str,
        plural: str,
        thing: Mapping[str, Any],
        mine: Mapping[str, str],
        *,
        there: Mapping[str, Any] | None = None,
        dry_run: bool = False,
    ) -> tuple[dict[str, Any], str]:
        """The object as the server has it now, and whose fields were taken back for it (in words, or nothing).

        An object that exists without the labels `mine` is somebody else's: raises Foreign. `there` = as it was read just now;
        without it, it is read.
        """
        name, namespace = thing["metadata"]["name"], thing["metadata"]["namespace"]
        there = there or self.get(context, thing["apiVersion"], plural, namespace, name)
        if there is not None and not _has(there, mine):
            raise Foreign(f"{plural} {namespace}/{name} exists and is not ours: delete it, or name the agent otherwise")
        try:
            return self._apply(context, plural, thing, force=False, dry_run=dry_run), ""
        except _Conflict as conflict:
            done = self._apply(context, plural, thing, force=True, dry_run=dry_run)
            return done, str(conflict)

    def _apply(self, context: str, plural: str, thing: Mapping[str, Any], *, force: bool, dry_run: bool) -> dict[str, Any]:
        group, _, version = thing["apiVersion"].partition("/")
        name, namespace = thing["metadata"]["name"], thing["metadata"]["namespace"]
        done = self._call(
            f"{plural} {namespace}/{name}",
            lambda: self._custom(context).patch_namespaced_custom_object(
                group,
                version,
                namespace,
                plural,
                name,
                dict(thing),
                field_manager=MANAGER,
                field_validation="Strict",
                force=force,
                _content_type="application/apply-patch+yaml",
                _preload_content=False,  # the SDK has no data for a 201 otherwise
                _request_timeout=CALL_SECONDS,
                **({"dry_run": "All"} if dry_run else {}),
            ),
        )
        return dict(json.loads(done.data))

    def delete(self, context: str, plural: str, live: Mapping[str, Any]) -> None:
        """This very object as it was read; one that is gone already, or was made anew, is left alone."""
        group, _, version = live["apiVersion"].partition("/")
        metadata = live["metadata"]
        conditions = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        self._call(
            f"{plural} {metadata['namespace']}/{metadata['name']}",
            lambda: self._custom(context).delete_namespaced_custom_object(
                group,
                version,
                metadata["namespace"],
                plural,
                metadata["name"],
                body={"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": conditions},
                _request_timeout=CALL_SECONDS,
            ),
            missing=True,
        )

    @staticmethod
    def owned(live: Mapping[str, Any]) -> dict[str, Any]:
        """What of an object is as we applied it: see `owned` below."""
        return owned(live)

    # -- the SDK -------------------------------------------------------------------------------------------------

    def _custom(self, context: str) -> Any:
        """Imported by name: a type checker would read its thousand modules otherwise."""
        if context not in self._clients:
            try:
                sdk, config = import_module("kubernetes.client"), import_module("kubernetes.config")
            except ImportError as error:
                raise Temporary("install turnout[kubernetes] to drive clusters") from error
            self._clients[context] = sdk.CustomObjectsApi(_client(sdk, config, context))
        return self._clients[context]

    def _call(self, where: str, call: Callable[[], Any], *, missing: bool = False) -> Any:
        """Its answer; errors as ours. `missing`: what is not there is None."""
        try:
            return call()
        except (Temporary, Permanent):
            raise
        except Exception as error:
            status = getattr(error, "status", None)
            if status == 404 and missing and _reason(error) == "NotFound":
                return None
            raise _error(where, status, error) from error


class _Conflict(Temporary):
    """Others own fields that we say; the text names them."""


def _client(sdk: Any, config: Any, context: str) -> Any:
    path = os.environ.get("KUBECONFIG") or "~/.kube/config"
    try:
        if not context and "KUBERNETES_SERVICE_HOST" in os.environ and not Path(path).expanduser().exists():
            settings = sdk.Configuration()
            config.load_incluster_config(client_configuration=settings)
            return sdk.ApiClient(settings)
        return config.new_client_from_config(config_file=path, context=context or None, persist_config=False)
    except Exception as error:
        raise Temporary(f"no cluster: {path}, context {context or '(current)'}: {error}") from error


def _error(where: str, status: int | None, error: Exception) -> Exception:
    """401, 403, 404 (no such kind or namespace), 409, 429 and 5xx may pass; what is said of the object itself will not."""
    if status is None:
        return Temporary(f"{where}: the cluster does not answer ({type(error).__name__}: {str(error)[:300]})")
    said = _message(error)
    if status == 409 and "conflict" in said:
        return _Conflict(f"{where}: {said}")
    kind = (
        Permanent
        if status in (400, 405, 413, 415, 422) or (status == 500 and "field not declared in schema" in said)
        else Temporary
    )
    if status == 404 and _reason(error) != "NotFound":
        said = "the cluster does not have this kind (is the Gateway API installed?)"
    return kind(f"{where}: {status}: {said}")


def _status(error: Exception) -> Mapping[str, Any]:
    try:
        found = json.loads(getattr(error, "body", None) or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _message(error: Exception) -> str:
    return str(_status(error).get("message") or getattr(error, "body", None) or error)[:600].strip()


def _reason(error: Exception) -> str:
    return str(_status(error).get("reason", ""))


def _has(thing: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    there = thing["metadata"].get("labels") or {}
    return all(there.get(key) == value for key, value in labels.items())


# -- whose fields ----------------------------------------------------------------------------------------------------


def owned(live: Mapping[str, Any], manager: str = MANAGER) -> dict[str, Any]:
    """The fields of an object that this manager has applied and still owns, with their values of now."""
    entries = live["metadata"].get("managedFields") or ()
    mine = [each for each in entries if each["manager"] == manager and each["operation"] == "Apply" and not each.get("subresource")]
    fields = mine[0].get("fieldsV1") if mine else None
    return dict(_picked(live, fields)) if fields else {}


def _picked(value: Any, fields: Mapping[str, Any]) -> Any:
    """`fields` in the form FieldsV1: `f:name` a field, `k:{...}` an item by its keys, `v:...` one by its value, `.` itself."""
    inner = {key: sub for key, sub in fields.items() if key != "."}
    if not inner:
        return value
    if isinstance(value, Mapping):
        names = {key[2:]: sub for key, sub in inner.items() if key.startswith("f:")}
        return {name: _picked(value[name], sub) for name, sub in names.items() if name in value}
    if isinstance(value, list):
        return [_picked(item, sub) for item in value for key, sub in inner.items() if _is_item(item, key)]
    return value


def _is_item(item: Any, key: str) -> bool:
    if key.startswith("k:"):
        return isinstance(item, Mapping) and all(item.get(name) == value for name, value in json.loads(key[2:]).items())
    return key.startswith("v:") and bool(item == json.loads(key[2:]))
