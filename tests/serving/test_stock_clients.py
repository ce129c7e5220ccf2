"""Stock clients against real miniatures: CLIP, BERT and Whisper, exported, served, and asked in every dialect for the same answer."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import httpx
import numpy as np
import openai
import pytest
from loopback import Served
from tritonclient import http as triton
from tritonclient.utils import triton_to_np_dtype


@pytest.fixture(scope="module")
def client(real: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{real.url}/v1", api_key="none", max_retries=0) as one:
        yield one


def embed_by_triton(real: Served, name: str, modality: str, values: list[bytes]) -> np.ndarray:
    tensor = triton.InferInput(modality, [len(values)], "BYTES")
    tensor.set_data_from_numpy(np.array(values, dtype=object))
    with triton.InferenceServerClient(f"127.0.0.1:{real.port}") as asked:
        vectors = asked.infer(name, [tensor]).as_numpy("embedding")
    assert vectors is not None
    return vectors


def test_every_dialect_gives_the_same_vector_of_an_image(real: Served, client: openai.OpenAI, png: bytes) -> None:
    uri = "data:image/png;base64," + base64.b64encode(png).decode()
    vectors = [
        np.array(client.embeddings.create(model="clip", input=[uri], extra_body={"modality": "image"}).data[0].embedding),
        np.array(
            client.embeddings.create(model="clip", input=[uri], extra_body={"modality": "image"}, encoding_format="float")
            .data[0]
            .embedding
        ),
        embed_by_triton(real, "clip.embed", "image", [png])[0],
        np.array(
            httpx.post(f"{real.url}/embed?model=clip", content=png, headers={"Content-Type": "image/png"}).json()["answers"][0][
                "embedding"
            ]
        ),
        np.array(
            httpx.post(f"{real.url}/embed", files={"image": ("a.png", png)}, data={"model": "clip"}).json()["answers"][0]["embedding"]
        ),
    ]
    assert abs(np.linalg.norm(vectors[0]) - 1) < 1e-5
    for other in vectors[1:]:
        np.testing.assert_allclose(other, vectors[0], atol=1e-6)


def test_vectors_of_texts_and_tensors(real: Served, client: openai.OpenAI) -> None:
    texts = ["larger old", "what"]
    by_openai = np.array([vector.embedding for vector in client.embeddings.create(model="bert", input=texts).data])
    by_triton = embed_by_triton(real, "bert.embed", "text", [text.encode() for text in texts])
    np.testing.assert_allclose(by_triton, by_openai, atol=1e-6)
    with pytest.raises(openai.BadRequestError, match="dimensions cannot be chosen"):
        client.embeddings.create(model="bert", input=texts, dimensions=3)


def test_tensors_of_every_component(real: Served) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{real.port}") as asked:
        for told in asked.get_model_repository_index():
            metadata = asked.get_model_metadata(told["name"])
            if metadata["inputs"] and metadata["inputs"][0]["datatype"] != "BYTES" and told["name"].partition(".")[0] != "whisper":
                inputs = []
                for tensor in metadata["inputs"]:
                    shape = [2, *(length if length > 0 else 4 for length in tensor["shape"][1:])]
                    inputs.append(triton.InferInput(tensor["name"], shape, tensor["datatype"]))
                    inputs[-1].set_data_from_numpy(np.ones(shape, dtype=triton_to_np_dtype(tensor["datatype"])))
                answer = asked.infer(told["name"], inputs)
                for tensor in metadata["outputs"]:
                    found = answer.as_numpy(tensor["name"])
                    assert found is not None and found.shape[0] == 2 and np.isfinite(found).all()
                    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_what_is_heard(client: openai.OpenAI, real: Served, wav: bytes) -> None:
    said = client.audio.transcriptions.create(model="whisper", file=("a.wav", wav)).text
    pieces = list(client.audio.transcriptions.create(model="whisper", file=("a.wav", wav), stream=True))
    assert pieces[-1].type == "transcript.text.done" and pieces[-1].text == said
    assert "".join(piece.delta for piece in pieces[:-1] if piece.type == "transcript.text.delta") == said
    assert httpx.post(f"{real.url}/transcribe", content=wav, headers={"Content-Type": "audio/wav"}).json()["answers"][0]["text"] == said


def test_classes_by_texts(real: Served, png: bytes) -> None:
    form = {"model": "clip", "labels": ["old", "what"]}
    labels = httpx.post(f"{real.url}/classify", files={"image": ("a.png", png)}, data=form).json()["answers"][0]["labels"]
    assert {one["label"] for one in labels} == {"old", "what"} and abs(sum(one["score"] for one in labels) - 1) < 1e-5


def test_what_cannot_be_read_is_refused_in_every_dialect(real: Served, client: openai.OpenAI, png: bytes) -> None:
    answer = httpx.post(f"{real.url}/embed?model=clip", content=png[:40], headers={"Content-Type": "image/png"})
    assert answer.status_code in (400, 415) and "0x" not in answer.text
    uri = "data:image/png;base64," + base64.b64encode(b"RIFF....").decode()
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model="clip", input=[uri], extra_body={"modality": "image"})
    assert caught.value.status_code in (400, 415)
