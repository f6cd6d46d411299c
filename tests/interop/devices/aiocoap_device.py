"""A scripted LwM2M 1.1 device on aiocoap, with cbor2 for SenML CBOR: no code of this project answers for it.

Arguments: server address, endpoint name, lifetime in seconds, and `psk=IDENTITY:KEY` for DTLS by DTLSSocket (tinydtls).
Commands on stdin and events on stdout: see ../README.md.

What makes it a peer of its own: it advertises no content format, speaks SenML JSON, SenML CBOR and, for one resource,
text, and refuses TLV; aiocoap sends what is too long for a datagram in blocks, notifications included.
"""

import asyncio
import json
import sys

import cbor2
from aiocoap import CHANGED, CONTENT, Context, Message, DELETE, POST
from aiocoap import error, resource

TEXT, LINK_FORMAT, SENML_JSON, SENML_CBOR = 0, 40, 110, 112
BASE_NAME, NAME, VALUE, STRING, BOOLEAN = -2, 0, 2, 3, 4

values = {
    "/3/0/0": "aiocoap",
    "/3/0/1": "interop",
    "/3/0/9": 64,
    "/3/0/14": "+01:00",
    "/3303/0/5700": 20.5,
    "/3303/0/5701": "Cel",
    "/3303/0/5750": "shed",
    "/3311/0/5850": False,
    "/3311/0/5851": 50,
}
executable = {"/3/0/4", "/3303/0/5605"}
writable = {"/3/0/14", "/3303/0/5750", "/3311/0/5850", "/3311/0/5851"}


def say(event):
    print(event, flush=True)


def covers(path, other):
    return other == path or other.startswith(path + "/")


def records(path):
    return [(name, value) for name, value in values.items() if covers(path, name)]


def encode(content_format, path):
    found = records(path)
    if content_format == TEXT:
        if len(found) != 1 or found[0][0] != path:
            raise error.UnsupportedContentFormat()
        value = found[0][1]
        return str(int(value) if isinstance(value, bool) else value).encode()
    if content_format == SENML_JSON:
        key = lambda value: "vb" if isinstance(value, bool) else "vs" if isinstance(value, str) else "v"
        return json.dumps([{"n": name, key(value): value} for name, value in found]).encode()
    key = lambda value: BOOLEAN if isinstance(value, bool) else STRING if isinstance(value, str) else VALUE
    return cbor2.dumps([{NAME: name, key(value): value} for name, value in found])


def decode(content_format, path, payload):
    """The (path, value) pairs of a Write."""
    if content_format == TEXT:
        old, text = values[path], payload.decode()
        yield path, text == "1" if isinstance(old, bool) else type(old)(text)
        return
    if content_format == SENML_JSON:
        pack, base_key, name_key, value_keys = json.loads(payload), "bn", "n", ("v", "vs", "vb")
    elif content_format == SENML_CBOR:
        pack, base_key, name_key, value_keys = cbor2.loads(payload), BASE_NAME, NAME, (VALUE, STRING, BOOLEAN)
    else:
        raise error.UnsupportedContentFormat()
    base = ""
    for record in pack:
        base = record.get(base_key, base)
        value = next(record[key] for key in value_keys if key in record)
        yield base + record.get(name_key, ""), value


class Node(resource.ObservableResource):
    def __init__(self, path):
        super().__init__()
        self.path = path

    async def render_get(self, request):
        accept = request.opt.accept
        if accept == LINK_FORMAT:
            links = ",".join(f"<{path}>" for path in sorted(nodes) if covers(self.path, path))
            return Message(code=CONTENT, payload=links.encode(), content_format=LINK_FORMAT)
        if accept is None:
            accept = TEXT if self.path in values else SENML_JSON
        if accept not in (TEXT, SENML_JSON, SENML_CBOR) or accept == TEXT and self.path not in values:
            raise error.NotAcceptable()
        return Message(code=CONTENT, payload=encode(accept, self.path), content_format=accept)

    async def render_put(self, request):
        if request.opt.uri_query and not request.payload:
            say(f"attributes {self.path} {'&'.join(request.opt.uri_query)}")
            return Message(code=CHANGED)
        return self.write(request)

    async def render_post(self, request):
        if self.path in executable:
            if delay:
                say(f"executing {self.path}")
                await asyncio.sleep(delay)
            say(f"executed {self.path} {request.payload.decode()}".rstrip())
            return Message(code=CHANGED)
        return self.write(request)

    def write(self, request):
        pairs = list(decode(request.opt.content_format, self.path, request.payload))
        if any(name not in writable for name, _ in pairs):
            raise error.MethodNotAllowed()
        for name, value in pairs:
            change(name, value)
            say(f"wrote {name} {json.dumps(value)}")
        return Message(code=CHANGED)


def change(name, value):
    values[name] = value
    for path, node in nodes.items():
        if covers(path, name):
            node.updated_state()


nodes = {}
delay = 0


async def main():
    global delay
    server, endpoint, lifetime, *psk = sys.argv[1:]
    values["/3/0/2"] = endpoint
    site = resource.Site()
    for name in [*values, *executable]:
        parts = name.strip("/").split("/")
        for depth in range(1, len(parts) + 1):
            path = "/" + "/".join(parts[:depth])
            if path not in nodes:
                nodes[path] = Node(path)
                site.add_resource(parts[:depth], nodes[path])
    if psk:
        identity, key = psk[0].removeprefix("psk=").rsplit(":", 1)
        base = f"coaps://{server}"
        context = await Context.create_client_context(transports=["tinydtls"])
        # The server asks through the session that this end has begun.
        context.serversite = site
        context.client_credentials.load_from_dict(
            {f"{base}/*": {"dtls": {"psk": {"hex": key}, "client-identity": {"ascii": identity}}}}
        )
    else:
        base = f"coap://{server}"
        context = await Context.create_server_context(site, bind=("127.0.0.1", 0))

    async def ask(code, path, payload=b"", query=(), content_format=None):
        message = Message(code=code, uri=base, payload=payload)
        message.opt.uri_path, message.opt.uri_query, message.opt.content_format = path, query, content_format
        return await asyncio.wait_for(context.request(message).response, 10)

    links = '</>;rt="oma.lwm2m",</1/0>,</3/0>,</3303/0>,</3311/0>'
    query = (f"ep={endpoint}", f"lt={lifetime}", "lwm2m=1.1", "b=U")
    answer = await ask(POST, ("rd",), links.encode(), query, LINK_FORMAT)
    location = answer.opt.location_path
    say(f"registered /{'/'.join(location)}" if answer.code.is_successful() else f"refused register {answer.code}")

    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := (await commands.readline()).decode().strip():
        word, *rest = line.split(" ", 2)
        if word == "set":
            old, (path, text) = values[rest[0]], rest
            change(path, text == "true" if isinstance(old, bool) else type(old)(text))
            say(f"set {path} {text[:60]}")
        elif word == "update":
            answer = await ask(POST, location)
            say("updated" if answer.code.is_successful() else f"refused update {answer.code}")
        elif word == "delay":
            delay = int(rest[0]) / 1000
            say(line)
        elif word == "deregister":
            answer = await ask(DELETE, location)
            say("deregistered" if answer.code.is_successful() else f"refused deregister {answer.code}")
            break
        else:
            say(f"unknown command {line}")


asyncio.run(main())
