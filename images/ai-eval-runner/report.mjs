#!/usr/local/bin/node
// nimbus-eval-report sends the results of promptfoo as OpenTelemetry: a span for
// the run, one for each case, and an event for each score.
//
//   promptfoo eval -o results.json; nimbus-eval-report results.json
//
// It is told where to by OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_*,
// OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, TRACEPARENT). promptfoo's own
// spans lack the names of metrics, the tries of a case and what was configured.
//
// What a case asked and what a model answered stays here unless --content is
// given; digests of both go out. The same file gives the same spans, so it may
// be sent twice.
import { createHash } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { basename } from 'node:path'
import { parseArgs } from 'node:util'

const name = 'nimbus-eval-report'
const version = '1'

// Bounds of what is read and sent.
const maxFileBytes = 256 << 20
const maxText = 2 << 10 // of an explanation
const maxContent = 16 << 10 // of a prompt or an answer
const perRequest = 100 // spans or events
const requestTimeout = 10_000
const tries = 5
const longestPause = 10_000

const usage = `usage: ${name} [--content] FILE…   results of promptfoo eval -o, JSON or JSONL`

class Failure extends Error {}

// ---- what promptfoo says ----

/** reads a file into a run: its id, name, time and rows. */
function readRun(path) {
  const size = statSync(path).size
  if (size > maxFileBytes) throw new Failure(`${path} has ${size} bytes, more than ${maxFileBytes}`)
  const raw = readFileSync(path, 'utf8')
  const whole = tryJSON(raw)
  if (Array.isArray(whole?.results?.results)) {
    return {
      id: String(whole.evalId ?? digest(raw)),
      suite: whole.config?.description || basename(path),
      began: Date.parse(whole.results.timestamp) || statSync(path).mtimeMs,
      took: whole.results.stats?.durationMs ?? 0,
      framework: whole.metadata?.promptfooVersion,
      rows: whole.results.results,
    }
  }
  const rows = raw.split('\n').filter((line) => line.trim() !== '').map(tryJSON)
  if (rows.length === 0 || !rows.every((r) => r && typeof r.testCase === 'object' && 'promptIdx' in r)) {
    throw new Failure(`${path} holds no results of promptfoo: make it with promptfoo eval -o results.json`)
  }
  return { id: digest(raw).slice(0, 32), suite: basename(path), began: statSync(path).mtimeMs, took: 0, rows }
}

function tryJSON(text) {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

// What failureReason is where no answer came. A row's error is set for failed
// assertions too, so that tells nothing.
const failedItself = 2

/** cases gives each row its key, variant and try: testIdx counts all of these together. */
function cases(rows) {
  const seen = new Map()
  return [...rows]
    .sort((a, b) => (a.testIdx ?? 0) - (b.testIdx ?? 0) || (a.promptIdx ?? 0) - (b.promptIdx ?? 0))
    .map((row) => {
      const test = row.testCase ?? {}
      const key = digest(canonical({ description: test.description, vars: test.vars, assert: test.assert })).slice(0, 32)
      const variant = [row.provider?.label || row.provider?.id || 'unknown', String(row.promptId ?? row.promptIdx ?? 0).slice(0, 12)].join(' ')
      const which = `${key} ${variant}`
      const repeat = seen.get(which) ?? 0
      seen.set(which, repeat + 1)
      const result = row.failureReason === failedItself ? 'error' : row.success ? 'pass' : 'fail'
      return { row, key, variant, repeat, result, name: test.description || `case ${key.slice(0, 8)}` }
    })
}

/** scores are the metrics of a row, and its assertions that are of no metric. */
function scores(row) {
  const parts = row.gradingResult?.componentResults ?? []
  const found = Object.entries(row.namedScores ?? {}).map(([metric, score]) => ({
    name: metric,
    score,
    pass: parts.filter((p) => p.assertion?.metric === metric).every((p) => p.pass),
    why: parts.find((p) => p.assertion?.metric === metric && !p.pass)?.reason,
  }))
  for (const p of parts) {
    if (!p.assertion?.metric) found.push({ name: p.assertion?.type ?? 'assertion', score: p.score, pass: p.pass, why: p.reason })
  }
  return found.filter((s) => Number.isFinite(s.score))
}

// ---- what OpenTelemetry calls it: the one table of names ----

function runAttributes(run, all) {
  return {
    'test.suite.name': run.suite,
    'test.suite.run.id': run.id,
    'test.suite.run.status': all.every((c) => c.result === 'pass') ? 'success' : 'failure',
    'evalops.run.id': run.id,
    'evalops.source.framework': 'promptfoo',
    'evalops.source.version': run.framework,
    'evalops.adapter.name': name,
    'nimbus.eval.cases': all.length,
    'nimbus.eval.passed': all.filter((c) => c.result === 'pass').length,
    'nimbus.eval.failed': all.filter((c) => c.result === 'fail').length,
    'nimbus.eval.errors': all.filter((c) => c.result === 'error').length,
  }
}

function caseAttributes(run, c, content) {
  const { row } = c
  const output = typeof row.response?.output === 'string' ? row.response.output : JSON.stringify(row.response?.output)
  return {
    'test.suite.name': run.suite,
    'test.suite.run.id': run.id,
    'test.case.id': c.key,
    'test.case.name': clip(c.name, maxText),
    'test.case.result.status': c.result === 'pass' ? 'pass' : 'fail',
    'error.type': c.result === 'error' ? 'evaluation_error' : undefined,
    'evalops.run.id': run.id,
    'evalops.case.id': c.key,
    'evalops.source.framework': 'promptfoo',
    'evalops.adapter.name': name,
    'evalops.prompt_sha256': row.prompt?.raw === undefined ? undefined : digest(row.prompt.raw),
    'evalops.response_sha256': output === undefined ? undefined : digest(output),
    'gen_ai.usage.input_tokens': row.tokenUsage?.prompt,
    'gen_ai.usage.output_tokens': row.tokenUsage?.completion,
    'nimbus.eval.result': c.result,
    'nimbus.eval.score': double(row.score),
    'nimbus.eval.variant': c.variant,
    'nimbus.eval.provider': row.provider?.id,
    'nimbus.eval.repeat': c.repeat,
    'nimbus.eval.cost': double(row.cost),
    'nimbus.eval.latency_ms': double(row.latencyMs),
    'nimbus.eval.cached_tokens': row.tokenUsage?.cached,
    'nimbus.eval.judge.tokens': row.tokenUsage?.assertions?.total,
    'nimbus.eval.prompt': content ? clip(row.prompt?.raw, maxContent) : undefined,
    'nimbus.eval.response': content ? clip(output, maxContent) : undefined,
  }
}

function scoreAttributes(run, c, s) {
  return {
    'gen_ai.evaluation.name': s.name,
    'gen_ai.evaluation.score.value': double(s.score),
    'gen_ai.evaluation.score.label': s.pass ? 'pass' : 'fail',
    'gen_ai.evaluation.explanation': clip(s.why, maxText),
    'test.suite.run.id': run.id,
    'test.case.id': c.key,
    'nimbus.eval.variant': c.variant,
    'nimbus.eval.repeat': c.repeat,
  }
}

// ---- OTLP ----

const statusOK = 1
const statusError = 2
const kindInternal = 1

/** translate makes the spans and the events of a run. */
function translate(run, { content = false, parent } = {}) {
  const all = cases(run.rows)
  const traceId = parent?.traceId ?? digest(`trace ${run.id}`).slice(0, 32)
  const span = (id, attributes) => ({ traceId, spanId: digest(`span ${run.id} ${id}`).slice(0, 16), kind: kindInternal, attributes: pairs(attributes) })
  const attributes = runAttributes(run, all)
  // promptfoo does not say when a case began: only how long its answer took.
  const longest = Math.max(run.took, ...all.map((c) => c.row.latencyMs ?? 0))
  const root = {
    ...span('run', attributes), parentSpanId: parent?.spanId ?? '', name: `RUN ${clip(run.suite, maxText)}`,
    startTimeUnixNano: nanos(run.began), endTimeUnixNano: nanos(run.began + longest),
    status: { code: attributes['test.suite.run.status'] === 'success' ? statusOK : statusError },
  }
  const spans = [root]
  const events = []
  for (const c of all) {
    const end = nanos(run.began + (c.row.latencyMs ?? 0))
    const one = {
      ...span(`${c.key} ${c.variant} ${c.repeat}`, caseAttributes(run, c, content)), parentSpanId: root.spanId, name: clip(c.name, maxText),
      startTimeUnixNano: root.startTimeUnixNano, endTimeUnixNano: end,
      status: c.result === 'pass' ? { code: statusOK } : { code: statusError, message: clip(c.row.error, maxText) ?? '' },
    }
    spans.push(one)
    for (const s of scores(c.row)) {
      events.push({
        timeUnixNano: end, observedTimeUnixNano: end, eventName: 'gen_ai.evaluation.result', traceId, spanId: one.spanId,
        attributes: pairs(scoreAttributes(run, c, s)),
      })
    }
  }
  return { spans, events }
}

const asDouble = Symbol('double')
const double = (n) => (Number.isFinite(n) ? { [asDouble]: n } : undefined)

/** pairs writes attributes; those without a value are left out. */
function pairs(attributes) {
  return Object.entries(attributes)
    .filter(([, v]) => v !== undefined && v !== null)
    .map(([key, v]) => ({ key, value: value(v) }))
}

function value(v) {
  if (typeof v === 'object' && asDouble in v) return { doubleValue: v[asDouble] }
  if (Number.isInteger(v)) return { intValue: String(v) }
  if (typeof v === 'number') return { doubleValue: v }
  if (typeof v === 'boolean') return { boolValue: v }
  return { stringValue: String(v) }
}

const nanos = (ms) => String(BigInt(Math.round(ms)) * 1_000_000n)
const digest = (text) => createHash('sha256').update(text).digest('hex')
const clip = (text, most) => (text === undefined || text === null ? undefined : String(text).slice(0, most))

/** canonical is JSON whose keys are sorted: equal values give equal text. */
function canonical(v) {
  if (Array.isArray(v)) return `[${v.map(canonical).join()}]`
  if (v && typeof v === 'object') {
    const fields = Object.keys(v).filter((k) => v[k] !== undefined).sort()
    return `{${fields.map((k) => `${JSON.stringify(k)}:${canonical(v[k])}`).join()}}`
  }
  return JSON.stringify(v) ?? 'null'
}

// ---- where to ----

/** settings are those of OpenTelemetry's variables. */
function settings(env) {
  const base = env.OTEL_EXPORTER_OTLP_ENDPOINT?.replace(/\/+$/, '')
  const endpoint = (signal) => env[`OTEL_EXPORTER_OTLP_${signal.toUpperCase()}_ENDPOINT`] || (base && `${base}/v1/${signal}`)
  if (!endpoint('traces') || !endpoint('logs')) throw new Failure('nobody said where to: set OTEL_EXPORTER_OTLP_ENDPOINT, http://127.0.0.1:4318 say')
  const trace = /^00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}$/.exec(env.TRACEPARENT ?? '')
  return {
    traces: endpoint('traces'),
    logs: endpoint('logs'),
    headers: list(env.OTEL_EXPORTER_OTLP_HEADERS),
    resource: pairs({ ...list(env.OTEL_RESOURCE_ATTRIBUTES), 'service.name': env.OTEL_SERVICE_NAME || list(env.OTEL_RESOURCE_ATTRIBUTES)['service.name'] || name }),
    parent: trace ? { traceId: trace[1], spanId: trace[2] } : undefined,
  }
}

/** list reads KEY=VALUE,KEY=VALUE with percent signs. */
function list(text = '') {
  const found = {}
  for (const pair of text.split(',')) {
    const i = pair.indexOf('=')
    if (i > 0) found[pair.slice(0, i).trim()] = decoded(pair.slice(i + 1).trim())
  }
  return found
}

function decoded(text) {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

async function send(to, spans, events) {
  const scope = { name, version }
  const batches = [
    ...chunks(spans).map((some) => [to.traces, { resourceSpans: [{ resource: { attributes: to.resource }, scopeSpans: [{ scope, spans: some }] }] }]),
    ...chunks(events).map((some) => [to.logs, { resourceLogs: [{ resource: { attributes: to.resource }, scopeLogs: [{ scope, logRecords: some }] }] }]),
  ]
  for (const [url, body] of batches) await post(url, to.headers, JSON.stringify(body))
}

function chunks(all) {
  const found = []
  for (let i = 0; i < all.length; i += perRequest) found.push(all.slice(i, i + perRequest))
  return found
}

const worthATry = [429, 502, 503, 504]

/** post sends one request, again where that may help. */
async function post(url, headers, body) {
  for (let tried = 1; ; tried++) {
    let problem
    let pause = Math.min(500 * 2 ** tried, longestPause)
    try {
      const answer = await fetch(url, { method: 'POST', headers: { ...headers, 'content-type': 'application/json' }, body, signal: AbortSignal.timeout(requestTimeout) })
      const text = (await answer.text()).slice(0, maxText)
      if (answer.ok) return checkWhole(url, text)
      problem = `${url} answers ${answer.status}: ${text}`
      if (!worthATry.includes(answer.status)) throw new Failure(problem)
      pause = Math.min(Number(answer.headers.get('retry-after')) * 1000 || pause, longestPause)
    } catch (e) {
      if (e instanceof Failure) throw e
      problem ??= `${url} can't be reached: ${e.cause?.message ?? e.message}`
    }
    if (tried === tries) throw new Failure(problem)
    await new Promise((done) => setTimeout(done, pause))
  }
}

/** checkWhole fails for what a receiver has taken in part. */
function checkWhole(url, text) {
  const part = tryJSON(text)?.partialSuccess
  const refused = Number(part?.rejectedSpans ?? part?.rejectedLogRecords ?? 0)
  if (refused > 0) throw new Failure(`${url} refused ${refused}: ${clip(part.errorMessage, maxText) ?? ''}`)
}

async function main() {
  let args
  try {
    args = parseArgs({ allowPositionals: true, options: { content: { type: 'boolean', default: false } } })
  } catch (e) {
    throw new Failure(`${e.message}\n${usage}`)
  }
  if (args.positionals.length === 0) throw new Failure(usage)
  const to = settings(process.env)
  for (const path of args.positionals) {
    const run = readRun(path)
    const { spans, events } = translate(run, { content: args.values.content, parent: to.parent })
    await send(to, spans, events)
    console.error(`${name}: ${path}: ${spans.length - 1} cases, ${events.length} scores`)
  }
}

main().catch((e) => {
  console.error(`${name}: ${e instanceof Failure || e.code ? e.message : e.stack}`)
  process.exitCode = 1
})
