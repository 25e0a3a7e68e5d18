"""A chat server that takes 50 ms for every reply, for `benchmarks.qa_generation`; it prints its port."""

import asyncio

from aiohttp import web


LATENCY = 0.05
QUESTIONS = "\n".join(f"{number}. What is thing number {number}?" for number in range(1, 6))


async def answer(request: web.Request) -> web.Response:
    started = asyncio.get_running_loop().time()
    body = await request.read()
    is_first = b"write 3 to 5 questions" in body
    content = QUESTIONS if is_first else f"A cup with {len(body)} dots."
    reply = {"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}
    await asyncio.sleep(started + LATENCY - asyncio.get_running_loop().time())
    return web.json_response(reply)


async def serve() -> None:
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=256)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
