// What is asked of the server.
const LEVELS = Array.from({ length: 200 }, (_, i) => (i + 0.5) / 200);

async function asked(path, key, body) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const options = body ? { method: "POST", body: JSON.stringify(body), headers: { ...headers, "Content-Type": "application/json" } } : { headers };
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const answer = await reply.json().catch(() => null);
  if (!reply.ok) throw new Error(answer?.error?.message ?? `The server answered ${reply.status}.`);
  return answer;
}

export async function models(key) {
  return (await asked("info", key)).models;
}

// One row a response: mean, std, quantiles at LEVELS, parameters; and the matrix of P(row beats column).
export async function rewards(choice, prompt, responses, key) {
  const answer = await asked("v1/rewards", key, {
    model: choice.model,
    raw: choice.raw,
    inputs: [{ prompt, responses }],
    include: ["mean", "std", "quantiles", "params", "prob_better"],
    quantile_levels: LEVELS,
    score: { utility: "mean" },
  });
  const wins = responses.map((_, i) => responses.map((_, j) => (i === j ? null : 0.5)));
  for (const pair of answer.comparisons) {
    wins[pair.i][pair.j] = pair.p_i_gt_j;
    wins[pair.j][pair.i] = 1 - pair.p_i_gt_j;
  }
  const rows = answer.data.map((row, index) => ({
    index,
    tokens: row.num_tokens,
    truncated: row.truncated,
    family: row.distribution.family,
    mean: row.distribution.mean,
    std: row.distribution.std,
    levels: row.distribution.quantiles.levels,
    quantiles: row.distribution.quantiles.values,
    params: row.distribution.params,
    support: answer.family.shared.support ?? null,
  }));
  return { rows, wins };
}
