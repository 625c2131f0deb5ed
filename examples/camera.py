"""Send a camera's frames to a server that asks a network: milliseconds and bytes a frame, for three kinds of encoder.

    python examples/camera.py

Frames are generated scenes. The server is another process on this machine; it decodes what it gets with Pillow, as any
program would, and asks its network. The camera has that network too, to keep its answers.
"""

import io
import json
import multiprocessing
import time
import urllib.request
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing.connection import Connection

import torch
from PIL import Image

import foveate
from foveate.demo import PREPROCESS, Scenes, scene_net
from foveate.demo.editor import scene_editor
from foveate.demo.rate_control import control

# The server looks at frames as they are stored, which may be at a smaller size, so the witness must too.
AS_STORED = replace(control("top1"), as_stored=True)
ENCODERS = {
    "a fixed quality": foveate.Compressor("jpeg:30"),
    "keep the answer": foveate.Compressor("jpeg", foveate.PreEdit(scene_editor()), control=AS_STORED),
    "at most 1 bit a pixel": foveate.Compressor("jpeg", target=foveate.TargetSize(bpp=1.0)),
}


class Network(foveate.models.Classifier):
    """The network at both ends."""

    def __init__(self) -> None:
        super().__init__("scene_net", scene_net(), PREPROCESS)

    def answer(self, frame: Image.Image) -> int:
        """Return the class of a frame."""
        pixels = foveate.images.as_tensor(frame.convert("RGB"), "frame")
        return int(self.logits(pixels[None]).argmax())


def serve(ready: Connection) -> None:
    """Answer frames until the process is ended; send the port first."""
    torch.set_num_threads(1)
    network = Network()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            answer = json.dumps({"class": network.answer(Image.open(io.BytesIO(data)))}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the camera prints."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    ready.send(server.server_port)
    server.serve_forever()


def main(frames: int = 40) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(there,), daemon=True)
    server.start()
    address = f"http://127.0.0.1:{here.recv()}"
    network, scenes = Network(), Scenes(frames, seed=5)
    clean = [network.answer(scenes[k][0]) for k in range(frames)]
    print(f"{'':22} {'encode':>9} {'send':>9} {'answers kept':>13}")
    for name, encoder in ENCODERS.items():
        encoder.encode_one(scenes[0][0])  # the first builds the models
        encoding = sending = sent = pixels = kept = 0.0
        for k in range(frames):
            frame = scenes[k][0]
            start = time.perf_counter()
            encoded = encoder.encode_one(frame)
            encoding += time.perf_counter() - start
            start = time.perf_counter()
            request = urllib.request.Request(address, encoded.data, {"Content-Type": encoded.codec.media_type})
            with urllib.request.urlopen(request, timeout=60) as reply:
                kept += json.load(reply)["class"] == clean[k]
            sending += time.perf_counter() - start
            sent += len(encoded.data)
            pixels += frame.width * frame.height
        times = f"{1000 * encoding / frames:6.1f} ms {1000 * sending / frames:6.1f} ms"
        print(f"{name:22} {times} {kept / frames:13.1%}  {sent / frames:,.0f} bytes a frame, ", end="")
        print(f"{8 * sent / pixels:.3f} bits a pixel")
    server.terminate()
    server.join()


if __name__ == "__main__":
    main()
