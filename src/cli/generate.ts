import type { TurnEvent } from '../agent/turn.ts'
import { RequestError } from '../base/errors.ts'
import { REPAIRS } from '../harmony/repair.ts'
import { AnswerPrinter } from './answer-printer.ts'
import { defineCommand, exitCodes } from './command.ts'
import { loadModel, loadOptions } from './load-model.ts'
import { interruptible, type ModelValues, respondOptions } from './model-options.ts'
import { flag } from './options.ts'
import { readAll } from './terminal.ts'

export const generate = defineCommand({
  name: 'generate',
  summary: 'answer one prompt, for pipes and scripts',
  argument: '[PROMPT]',
  about: [
    'Answers the PROMPT, or all of stdin when there is none. The answer alone goes to stdout. Ctrl-C ends with exit code 130.',
    'With --json stdout has one JSON object a line instead, each with a type: {"type":"final","text"}, a piece of the ' +
      'answer; {"type":"preamble","text"}, words before a call; {"type":"call","recipient","arguments","contentType","complete"}, a ' +
      'call of a tool; {"type":"end","reason","usage"}, always the last, with the reason "stop" or "length". ' +
      '--show-reasoning adds {"type":"analysis","text"} and {"type":"repair","kind","at","tokens","meaning"}; --raw adds ' +
      '{"type":"token","token"}.',
  ],
  options: { ...loadOptions, json: flag('print events as JSON, one a line') },
  examples: [
    ['tutti generate "What is the capital of France?"', 'prints the answer'],
    ['tutti generate < question.txt > answer.txt', 'reads the prompt from a file'],
    ['tutti generate --json "What is 17 + 25?"', 'prints what happens as JSON lines'],
    ['tutti generate --raw "Who are you?"', 'prints the Harmony that the model writes'],
  ],
  async run({ values, positionals }, shell) {
    const prompt = positionals.length > 0 ? positionals.join(' ') : (await readAll(shell.stdin)).replace(/\r?\n$/, '')
    if (prompt.trim() === '') throw new RequestError('the prompt is empty: give one as an argument or on stdin')
    await using model = await loadModel(values, shell)
    if (!model) return exitCodes.interrupted
    if (model.notice) shell.stderr.write(`${model.notice}\n`)
    const { 'show-reasoning': showReasoning, raw, 'max-tokens': maxTokens } = values
    const printer = new AnswerPrinter(shell, model, { showReasoning, raw, maxTokens })
    try {
      const finished = await interruptible(shell, async signal => {
        for await (const event of model.respond(prompt, { ...respondOptions(values), signal })) {
          if (!values.json) printer.print(event)
          else for (const line of jsonEvents(event, values)) shell.stdout.write(`${JSON.stringify(line)}\n`)
        }
      })
      return finished ? exitCodes.success : exitCodes.interrupted
    } finally {
      printer.finish()
    }
  },
})

/** What --json prints of an event: chain of thought only where it was asked for. */
function jsonEvents(event: TurnEvent, { 'show-reasoning': showReasoning, raw }: ModelValues): object[] {
  switch (event.type) {
    case 'final':
    case 'preamble':
      return [event]
    case 'analysis':
      return showReasoning ? [event] : []
    case 'call':
      return [{ type: 'call', ...event.call }]
    case 'repair':
      return showReasoning ? [{ type: 'repair', ...event.repair, meaning: REPAIRS[event.repair.kind] }] : []
    case 'token':
      return raw ? [event] : []
    case 'end':
      return [{ type: 'end', reason: event.reason, usage: event.usage }]
    case 'queued':
    case 'prefill':
    case 'message':
      return []
  }
}
