"""What one writes first: FastAPI, one forward pass per request. ``python bench/plain_server.py FOLDER PORT``."""

from __future__ import annotations

import sys

import torch
import uvicorn
from fastapi import FastAPI, Request
from transformers import AutoModelForSequenceClassification

from poise.data.records import Message
from poise.model import RewardModel

folder, port = sys.argv[1], int(sys.argv[2])
model = RewardModel.load(folder)
decoder = model.backbone.causal
network = AutoModelForSequenceClassification.from_pretrained(folder).eval() if decoder else model.backbone.model
app = FastAPI()


@app.post("/v1/rewards")
async def rewards(request: Request):
    given = (await request.json())["inputs"][0]
    prompt, response = (tuple(Message(**m) for m in text) for text in (given["prompt"], given["responses"][0]))
    with torch.inference_mode():
        row = model.backbone.encode([(prompt, response)])[0]
        ids = torch.tensor([row.ids])
        if decoder:
            return {"data": [{"score": network(input_ids=ids).logits[0, 0].item()}]}
        segments = (torch.arange(len(row.ids)) >= row.prompt_length)[None].long()
        hidden = network(input_ids=ids, token_type_ids=segments).last_hidden_state[0]
        return {"data": [{"score": (hidden[row.prompt_length :].mean(0) @ model.method.score.weight[0]).item()}]}


uvicorn.run(app, port=port, log_level="error", access_log=False)
