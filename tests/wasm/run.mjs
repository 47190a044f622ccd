// Runs a WASI program under Node 20 or later: node run.mjs PROGRAM ARGUMENT…; its exit status is the program's.
// SPDX-License-Identifier: MIT
import { readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';

process.removeAllListeners('warning'); // that WASI is experimental
// Node 20.20's WASI corrupts the stack after many calls by V8's shortcut into C++.
setFlagsFromString('--no-turbo-fast-api-calls');

const { WASI } = await import('node:wasi');
const args = process.argv.slice(2);
const bytes = readFileSync(args[0]);
if (!WebAssembly.validate(bytes)) // relaxed SIMD is behind a flag there
    setFlagsFromString('--experimental-wasm-relaxed-simd');
const wasi = new WASI({ version: 'preview1', args, env: process.env, returnOnExit: true });
const { instance } = await WebAssembly.instantiate(bytes, wasi.getImportObject());
process.exitCode = wasi.start(instance);
