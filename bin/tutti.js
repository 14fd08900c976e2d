#!/usr/bin/env node
// Plain JavaScript of the oldest kind, so that an old Node can still say what it lacks.
var needed = [22, 19]
var have = process.versions.node.split('.').map(Number)
if (have[0] > needed[0] || (have[0] === needed[0] && have[1] >= needed[1])) {
  import('../dist/cli/main.js')
} else {
  console.error(
    'tutti needs Node ' +
      needed.join('.') +
      ' or newer, and this is ' +
      process.versions.node +
      ': see https://nodejs.org/download.',
  )
  process.exitCode = 1
}
