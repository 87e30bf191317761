// What a response is worth when one is careful. `caution` runs from 0 (its mean) to 1 (very).
const WORST = 0.01, DEVIATIONS = 3;

export const MEASURES = {
  cvar: {
    setting: (caution) => WORST ** caution,
    value: (row, share) => (share >= 1 ? row.mean : worstMean(row, share)),
    words: (share) => (share >= 1 ? "its mean" : `the mean of its worst ${percent(share)} of cases`),
  },
  lcb: {
    setting: (caution) => DEVIATIONS * caution,
    value: (row, count) => row.mean - count * row.std,
    words: (count) => (count === 0 ? "its mean" : `its mean less ${count.toFixed(2)} standard deviations`),
  },
};

// The mean below the quantile of `share`: in closed form for a Gaussian, else over the quantiles, the last one in part.
function worstMean(row, share) {
  if (row.family === "gaussian") return row.mean - (row.std * density(normalQuantile(share))) / share;
  const count = share * row.quantiles.length;
  const whole = Math.floor(count);
  let sum = 0;
  for (let i = 0; i < whole; i++) sum += row.quantiles[i];
  if (whole < row.quantiles.length) sum += (count - whole) * row.quantiles[whole];
  return sum / count;
}

function percent(share) {
  return share >= 0.1 ? `${Math.round(100 * share)} %` : `${(100 * share).toFixed(1)} %`;
}

export function density(z) {
  return Math.exp(-0.5 * z * z) / Math.sqrt(2 * Math.PI);
}

// Acklam's rational approximation, relative error below 1.2e-9; here only for shares in (0, 1).
function normalQuantile(p) {
  const a = [-3.969683028665376e1, 2.209460984245205e2, -2.759285104469687e2, 1.38357751867269e2, -3.066479806614716e1, 2.506628277459239];
  const b = [-5.447609879822406e1, 1.615858368580409e2, -1.556989798598866e2, 6.680131188771972e1, -1.328068155288572e1];
  const c = [-7.784894002430293e-3, -3.223964580411365e-1, -2.400758277161838, -2.549732539343734, 4.374664141464968, 2.938163982698783];
  const d = [7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996, 3.754408661907416];
  const poly = (k, x) => k.reduce((sum, each) => sum * x + each, 0);
  if (p > 1 - 0.02425) return -normalQuantile(1 - p);
  if (p < 0.02425) {
    const q = Math.sqrt(-2 * Math.log(p));
    return poly(c, q) / (poly(d, q) * q + 1);
  }
  const q = p - 0.5, r = q * q;
  return (poly(a, r) * q) / (poly(b, r) * r + 1);
}
