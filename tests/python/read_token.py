"""Reads tokens with biscuit-python and says what it makes of them. One JSON request a line on stdin, one JSON answer a line on stdout.

request: {"token": base64url, "root": hex, "now_secs", "tenant", "service", "tool", "action", "resource": [segment], "data_class": 0..3,
          "args": {name: integer | {"minor", "unit"} | text | anything}, "holders": [hex]}
answer:  {"allowed": true} or {"allowed": false, "why": text}

The ambient facts are made here, from the words of spec/token.md, so that a second hand reads that page.
"""

import json
import sys
from datetime import datetime, timedelta, timezone

from biscuit_auth import Algorithm, AuthorizationError, AuthorizerBuilder, Biscuit, Fact, PublicKey


def ambient(r):
    yield Fact("time({t})", {"t": datetime.fromtimestamp(r["now_secs"], timezone.utc)})
    yield Fact("at_tenant({x})", {"x": r["tenant"]})
    yield Fact("at_service({x})", {"x": r["service"]})
    yield Fact("tool({x})", {"x": r["tool"]})
    yield Fact("action({x})", {"x": r["action"]})
    yield Fact("resource({x})", {"x": r["resource"]})
    yield Fact("data_class({x})", {"x": r["data_class"]})
    for name, value in r["args"].items():
        if isinstance(value, bool):
            continue
        if isinstance(value, int):
            yield Fact("number({n}, {v}, {u})", {"n": name, "v": value, "u": ""})
        elif isinstance(value, str):
            yield Fact("text({n}, {v})", {"n": name, "v": value})
        elif isinstance(value, dict) and set(value) == {"minor", "unit"}:
            yield Fact("number({n}, {v}, {u})", {"n": name, "v": value["minor"], "u": value["unit"]})
    for key in r["holders"]:
        yield Fact("holder_proof({k})", {"k": bytes.fromhex(key)})


def answer(r):
    root = PublicKey.from_bytes(bytes.fromhex(r["root"]), Algorithm.Ed25519)
    token = Biscuit.from_base64(r["token"], root)
    builder = AuthorizerBuilder("allow if true")
    limits = builder.limits()
    limits.max_time = timedelta(seconds=30)
    builder.set_limits(limits)
    for fact in ambient(r):
        builder.add_fact(fact)
    try:
        builder.build(token).authorize()
    except AuthorizationError as e:
        return {"allowed": False, "why": str(e)}
    return {"allowed": True}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
