"""An agent that has two sub-agents read a file each, under one budget."""

import asyncio
from pathlib import Path

from retinue import BudgetConfig, FileRead, Task, Turn, connect


async def reader(turn: Turn, path: str) -> int:
    async with turn.authorized(FileRead(path), cost_usd="0.002", context="counts words") as permit:
        words = len(Path(path).read_text().split())
        permit.settle("0.0015")
    return words


async def hello(turn: Turn, prompt: str) -> str:
    tasks = [Task(reader, path, timeout=60, allotment_usd="0.01") for path in prompt.split("\n")]
    results = await turn.spawn(tasks, max_concurrent=2)
    return f"{[result.value for result in results]} words"


async def main() -> None:
    here = Path(__file__).parent
    async with connect() as retinue:
        workspace = await retinue.workspace(here, max_usd="50")
        budget = BudgetConfig(session_max_usd="0.05")
        session = await retinue.create_session(hello, workspace=workspace, budget=budget)
        result = await session.run(f"{here}/hello.py\n{here}/survey.py")
        print(result.output, f"for {result.cost_usd} USD")


if __name__ == "__main__":
    asyncio.run(main())
