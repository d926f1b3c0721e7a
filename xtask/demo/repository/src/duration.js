// Durations in seconds, written as whole units from the largest to the smallest: 1d2h30m15s.

const UNITS = [
  { name: 'd', seconds: 86_400 },
  { name: 'h', seconds: 3_600 },
  { name: 'm', seconds: 60 },
  { name: 's', seconds: 1 },
];

/** Reads a duration such as `1h30m` and returns it in seconds. */
export function parseDuration(text) {
  const parts = [...text.matchAll(/(\d+)([dhms])/g)];
  if (parts.length === 0 || parts.map((part) => part[0]).join('') !== text) {
    throw new TypeError(`not a duration: '${text}'`);
  }
  return parts.reduce((total, [, count, name]) => total + Number(count) * secondsOf(name), 0);
}

/** Writes a number of seconds in the fewest units, such as `1h30m`. */
export function formatDuration(seconds) {
  if (!Number.isInteger(seconds) || seconds < 0) {
    throw new RangeError(`not a whole number of seconds: ${seconds}`);
  }
  let rest = seconds;
  let text = '';
  for (const unit of UNITS) {
    if (rest > unit.seconds) {
      text += Math.floor(rest / unit.seconds) + unit.name;
      rest %= unit.seconds;
    }
  }
  return text || `${rest}s`;
}

function secondsOf(name) {
  return UNITS.find((unit) => unit.name === name).seconds;
}
