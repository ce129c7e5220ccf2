"""All that is served in one process: models by name, and what can be asked of them. Protocols call this and nothing else.

    service = Service([open_served("demo-out")], Limits())
    await service.start()
    answers = await service.answer("demo-out", "classify", [Item(image=…, audio=…, text="sum")])
    await service.stop()
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, TypeVar

from numpy.typing import NDArray

from trimodal.errors import InputError, suggest_names
from trimodal.models.model import LoadedSample
from trimodal.runtimes.model_limits import count_safe_words
from trimodal.serving.admission import Admission, predict_cost
from trimodal.serving.asking import check_taken
from trimodal.serving.batching import Batcher
from trimodal.serving.limits import Limits
from trimodal.serving.loading import load_item
from trimodal.serving.media.decoders import Decoders
from trimodal.serving.media.fetching import Fetcher
from trimodal.serving.proving import find_joinable
from trimodal.serving.refusals import RefusedError, refuse_bad, refuse_large, refuse_unknown
from trimodal.serving.requests import TASKS, Answer, Embedding, Item, ModelCard, Options, Task, Text, tell_tasks
from trimodal.serving.served_model import Job, ServedModel
from trimodal.serving.speaking import Speaking, join_texts
from trimodal.serving.tensor_checks import check_tensors

Arrays = Mapping[str, NDArray[Any]]
_PLAIN, _USUAL = Options(), Limits()
_COUNTED = ("requests", "items", "failed", "refused", "encode", "said", "saying")  # the last two: texts, and the seconds of their tokens
_Found = TypeVar("_Found")


class Service:
    """The models of one process. All methods that are `async` run in one event loop."""

    def __init__(self, models: Sequence[ServedModel], limits: Limits = _USUAL, *, decoders: int = 2) -> None:
        names = [model.name for model in models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"two models are called {twice[0]!r}; give one another name: NAME=FOLDER")
        self.limits = limits
        self._models = {model.name: model for model in models}
        self._admission = Admission(limits.queue, limits.wait_seconds, limits.burst_seconds)
        self._decoders, self._fetcher = Decoders(limits, decoders), Fetcher(limits)
        self._encoding = ThreadPoolExecutor(1, "encode")
        self._computing = ThreadPoolExecutor(1, "compute")  # one at a time, with all threads of the runtime
        self._batchers: dict[str, Batcher] = {}
        self._counts: dict[str, dict[str, float]] = {}
        self._under_way, self._ready, self._draining = 0, False, False
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def start(self) -> None:
        """Begin the decoders, and try every model; `ready` afterwards.

        Raises:
            IntegrityError: a model does not answer as it should.
        """
        await self._decoders.warm_up()
        for name, model in self._models.items():
            joinable = await self._in_thread(self._computing, partial(find_joinable, model.runner, count_safe_words(model.chosen.folder)))
            self._batchers[name] = Batcher(model.runner.run, self._computing, self.limits.batch, joinable)
            self._batchers[name].start()
            self._counts[name] = dict.fromkeys(_COUNTED, 0.0)
        self._ready = True

    async def stop(self) -> None:
        """Take nothing more, wait for what is under way (at most `limits.drain_seconds`), let go of everything."""
        self._draining = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._quiet.wait(), self.limits.drain_seconds)
        for batcher in self._batchers.values():
            await batcher.stop()
        await self._decoders.stop()
        self._computing.shutdown(wait=True, cancel_futures=True)
        self._encoding.shutdown(wait=False, cancel_futures=True)
        for model in self._models.values():
            model.runner.close()

    @property
    def ready(self) -> bool:
        """Whether every model answers, and nothing is being shut down."""
        return self._ready and not self._draining

    def drain(self) -> None:
        """Be no longer `ready`; what comes is still answered until `stop`."""
        self._draining = True

    def list_models(self) -> Sequence[ModelCard]:
        """What is told of each model, in the order in which they were given."""
        return [model.card for model in self._models.values()]

    def find_model(self, name: str, version: str = "") -> ModelCard:
        """One model.

        Raises:
            RefusedError: 404, there is none of that name or version.
        """
        return self._find(name, version).card

    async def infer(
        self, name: str, component: str, arrays: Arrays, *, outputs: Sequence[str] = (), seconds: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """Arrays (batch, …) by input -> arrays by output, of one component. `seconds` is the deadline from now.

        Raises:
            RefusedError: 400 names, types or shapes; 404; 413; 429 the queue is full; 503; 504.
        """
        model, until = self._find(name), self._find_deadline(seconds)
        card = model.runner.cards.get(component)
        if card is None:
            raise refuse_unknown(f"{name} has no component {component!r:.80}; it has {', '.join(model.runner.cards)}")
        rows = check_tensors(card, arrays, self.limits.items)
        if unknown := [output for output in outputs if output not in {spec.name for spec in card.outputs}]:
            raise refuse_bad(f"there is no output {unknown[0]!r:.80}; there are {', '.join(spec.name for spec in card.outputs)}", "outputs")

        async def work() -> dict[str, NDArray[Any]]:
            found = await self._batchers[name].compute(component, arrays, until)
            return {output: found[output] for output in outputs or found}

        return await self._watch(model, rows, float(rows), work)

    async def answer(
        self, name: str, task: Task, items: Sequence[Item], options: Options = _PLAIN, *, seconds: float | None = None
    ) -> list[Answer | RefusedError]:
        """An answer per item, in order; where one item is bad, a refusal stands in its place and the others are answered.

        Raises:
            RefusedError: what concerns the whole request: 404 model, 400 task or options, 413 too many, 429, 503, 504.
        """
        model, until = self._find(name), self._find_deadline(seconds)
        self._check_request(model, task, items, options)
        most = self._count_new_tokens(options) if task in ("ask", "transcribe") and model.asking and model.asking.generates else 0
        cost = sum(predict_cost(item, most) for item in items) + len(options.labels)

        async def work() -> list[Answer | RefusedError]:
            texts = await self._embed_labels(model, options, until) if options.labels else []
            jobs = [self._answer_one(model, task, item, options, texts, until) for item in items]
            found = await asyncio.gather(*jobs, return_exceptions=True)
            return [_keep_refusal(one) for one in found]

        return await self._watch(model, len(items), cost, work)

    async def stream(
        self, name: str, item: Item, options: Options = _PLAIN, *, seconds: float | None = None
    ) -> AsyncGenerator[str | Text, None]:
        """The pieces of a text as they are said, and at last the whole `Text`. Closing the iterator ends the work.

        Raises:
            RefusedError: as `answer`, before the first piece.
        """
        model, until = self._find(name), self._find_deadline(seconds)
        task: Task = "transcribe" if "transcribe" in model.tasks else "ask"
        self._check_request(model, task, [item], options)
        most = self._count_new_tokens(options)
        with self._count_request(model, 1), self._admission.admit(predict_cost(item, most)):
            said = list[Text]()
            for job in await self._make_jobs(model, task, item):
                async with aclosing(self._speak(model, job, most, options, until).pieces()) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, Text):
                            said.append(piece)
                        else:
                            yield piece if not said or said[-1].text.endswith(" ") or piece.startswith(" ") else f" {piece}"
            yield join_texts(said)

    def write_prompt(self, name: str, messages: Sequence[Mapping[str, Any]]) -> str:
        """The text that a chat becomes for the model `name`.

        Raises:
            RefusedError: 404; 400 its template does not take the messages.
        """
        try:
            return self._find(name).write_prompt(messages)
        except RefusedError:
            raise
        except Exception as failed:  # templates raise what they like
            raise refuse_bad("the model's chat template does not take these messages", "messages") from failed

    def count(self, name: str) -> Mapping[str, float]:
        """Statistics of a model since the start: `requests`, `items`, `failed`, `refused`, `queued` now, `batches`, `samples`, and the
        seconds of `queue`, `encode` and `compute`."""
        found, batcher = dict(self._counts.get(name, {})), self._batchers.get(name)
        if batcher is None:
            return found
        counts, said, saying = batcher.counts, found.pop("said"), found.pop("saying")
        return {
            **found, "queued": float(batcher.queued), "batches": counts.batches + said, "samples": counts.samples + said,
            "queue": counts.waited, "compute": counts.computed + saying,
        }  # fmt: skip

    # One request

    def _find(self, name: str, version: str = "") -> ServedModel:
        model = self._models.get(name)
        if model is None:
            raise refuse_unknown(f"no model is called {name[:80]!r}; {suggest_names(name[:80], self._models)}")
        if version and version != model.version:
            raise refuse_unknown(f"{name} has no version {version[:20]!r}; it has {model.version}")
        return model

    def _find_deadline(self, seconds: float | None) -> float:
        if seconds is not None and not seconds > 0:
            raise refuse_bad(f"the time for an answer is {seconds:g} s; expected more than 0", "timeout")
        return time.monotonic() + min(seconds or self.limits.request_seconds, self.limits.request_seconds)

    def _check_request(self, model: ServedModel, task: Task, items: Sequence[Item], options: Options) -> None:
        if task not in TASKS or task not in model.tasks:
            raise refuse_bad(f"{model.name} does not {task}; it {tell_tasks(model.card)}", "task")
        if not items:
            raise refuse_bad("there is nothing to answer: no item was given", "input")
        if options.dimensions not in (None, model.card.width):
            known = f": it has {model.card.width}" if model.card.width else ""
            raise refuse_bad(f"dimensions cannot be chosen of {model.name}{known}", "dimensions")
        if len(items) > self.limits.items:
            raise refuse_large(f"{len(items)} items in one request; at most {self.limits.items} are taken", "input")
        matches = task == "classify" and not model.card.labels
        if matches and not options.labels:
            raise refuse_bad("this model classifies by texts: give labels, such as [\"a cat\", \"a dog\"]", "labels")
        if options.labels and not matches:
            raise refuse_bad("this model has classes of its own; leave labels out", "labels")
        if len(options.labels) > self.limits.items:
            raise refuse_large(f"{len(options.labels)} labels; at most {self.limits.items} are taken", "labels")

    def _count_new_tokens(self, options: Options) -> int:
        asked = options.max_tokens
        if asked is None:
            return self.limits.usual_tokens
        if not 1 <= asked <= self.limits.new_tokens:
            raise refuse_bad(f"max_tokens is {asked}; expected 1 to {self.limits.new_tokens}", "max_tokens")
        return asked

    async def _watch(
        self, model: ServedModel, items: int, cost: float, work: Callable[[], Awaitable[_Found]]
    ) -> _Found:
        with self._count_request(model, items), self._admission.admit(cost):
            return await work()

    def _count_request(self, model: ServedModel, items: int) -> _Counted:
        if not self._ready:
            raise RefusedError(503, "the models are being loaded", retry_after=1.0)
        return _Counted(self, self._counts[model.name], items)

    async def _answer_one(
        self, model: ServedModel, task: Task, item: Item, options: Options, texts: Sequence[Embedding], until: float
    ) -> Answer:
        jobs = await self._make_jobs(model, task, item)
        job = jobs[0]
        if task in ("ask", "transcribe") and model.asking is not None and model.asking.generates:
            most = self._count_new_tokens(options)
            return join_texts([await self._speak(model, one, most, options, until).say_all() for one in jobs])
        found = await self._batchers[model.name].compute(job.component, job.arrays, until)
        if task == "embed":
            return model.read_vector(job, found)
        if task == "classify":
            return model.match_texts(model.read_vector(job, found), options.labels, texts, options.top) if texts else (
                model.read_classes(found, options.top)
            )  # fmt: skip
        return model.read_boxes(found, options.top) if task == "detect" else model.read_frames(found)

    async def _embed_labels(self, model: ServedModel, options: Options, until: float) -> list[Embedding]:
        found = await asyncio.gather(
            *(self._answer_one(model, "embed", Item(text=label), _PLAIN, (), until) for label in options.labels)
        )
        return [one for one in found if isinstance(one, Embedding)]

    async def _make_jobs(self, model: ServedModel, task: Task, item: Item) -> list[Job]:
        begun = time.monotonic()
        check_taken(item, model.takes)
        loaded: LoadedSample = await load_item(item, self._decoders, self._fetcher, self.limits)
        made = await self._in_thread(self._encoding, lambda: model.make_jobs(loaded, task))
        self._counts[model.name]["encode"] += time.monotonic() - begun
        return made

    def _speak(self, model: ServedModel, job: Job, most: int, options: Options, until: float) -> Speaking:
        counts, room = self._counts[model.name], model.count_room(job)
        counts["said"] += 1

        def note(seconds: float) -> None:
            counts["saying"] += seconds

        most = most if room is None else min(most, room)
        return Speaking(model, job.arrays, most, options, until, self._computing, note)

    async def _in_thread(self, pool: ThreadPoolExecutor, call: Callable[[], _Found]) -> _Found:
        return await asyncio.get_running_loop().run_in_executor(pool, call)


class _Counted:
    """A request under way, counted; `stop` waits until there is none."""

    def __init__(self, service: Service, counts: dict[str, float], items: int) -> None:
        self._service, self._counts, self._items = service, counts, items

    def __enter__(self) -> None:
        self._service._under_way += 1
        self._service._quiet.clear()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._service._under_way -= 1
        if not self._service._under_way:
            self._service._quiet.set()
        refused = isinstance(error, RefusedError) and int(error.status) in (413, 429, 503)
        self._counts["refused" if refused else "requests"] += 1
        self._counts["items"] += 0 if error is not None else self._items
        self._counts["failed"] += 1 if error is not None and not refused else 0


def _keep_refusal(found: Any) -> Any:
    """An answer or a refusal; what concerns the whole request, and faults of ours, are raised."""
    if isinstance(found, RefusedError) and int(found.status) not in (429, 503, 504):
        return found
    if isinstance(found, BaseException):
        raise found
    return found
