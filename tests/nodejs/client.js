// Uses edged through gRPC's own implementation in JavaScript, and prints what came as JSON.
//
// node client.js SOCKET PIXELS: the daemon's socket, and a file with the 8×8 pixels of a digit as little-endian FP32.
// tests/integration/test_nodejs.py says what should have come.

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const [socket, pixels] = process.argv.slice(2);
const here = dirname(fileURLToPath(import.meta.url));
const protos = join(here, "../../protos");
const options = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true };

function load(file, ...includeDirs) {
  return grpc.loadPackageDefinition(protoLoader.loadSync(file, { ...options, includeDirs }));
}

const { inference } = load("inference/grpc_service.proto", protos);
const health = load("health.proto", here).grpc.health.v1;
const address = `unix:${socket}`;
const server = new inference.GRPCInferenceService(address, grpc.credentials.createInsecure());
const doctor = new health.Health(address, grpc.credentials.createInsecure());

// One unary call: its reply, or how it was refused.
function call(client, method, request) {
  return new Promise((resolve) => {
    const deadline = Date.now() + 60_000;
    client[method](request, { deadline }, (error, reply) => {
      if (!error) return resolve(reply);
      const code = error.metadata.get("edged-code")[0] ?? "";
      resolve({ status: grpc.status[error.code], code, message: error.details });
    });
  });
}

function floats(buffer) {
  return Array.from({ length: buffer.length / 4 }, (_, at) => buffer.readFloatLE(4 * at));
}

// The first state that a Watch tells.
function watch(service) {
  return new Promise((resolve, reject) => {
    const stream = doctor.Watch({ service }, { deadline: Date.now() + 60_000 });
    stream.on("error", (error) => (error.code === grpc.status.CANCELLED ? null : reject(error)));
    stream.on("data", ({ status }) => {
      resolve(status);
      stream.cancel();
    });
  });
}

const image = { name: "image", datatype: "FP32", shape: [1, 1, 8, 8] };
const digit = readFileSync(pixels);

function digits(inputs, raw, more = {}) {
  return { model_name: "digits", inputs, raw_input_contents: raw, ...more };
}

const sequence = { parameters: { sequence_id: { int64_param: 1 } } };

const scores = await call(server, "ModelInfer", digits([image], [digit], { id: "node-1" }));
const typed = { ...image, contents: { fp32_contents: floats(digit) } };
const again = await call(server, "ModelInfer", digits([typed], []));
const number = "9007199254740993"; // no number of JavaScript holds it
const exact = await call(server, "ModelInfer", {
  model_name: "identity-int64",
  inputs: [{ name: "x", datatype: "INT64", shape: [1, 2], contents: { int64_contents: [number, `-${number}`] } }],
});

const found = {
  live: await call(server, "ServerLive", {}),
  ready: await call(server, "ServerReady", {}),
  server: await call(server, "ServerMetadata", {}),
  modelReady: await call(server, "ModelReady", { name: "digits", version: "1" }),
  model: await call(server, "ModelMetadata", { name: "digits" }),
  answer: { ...scores, raw_output_contents: scores.raw_output_contents?.map(floats) },
  typedIsTheSame: again.raw_output_contents?.[0].equals(scores.raw_output_contents[0]),
  exact: exact.raw_output_contents?.map((raw) => [raw.readBigInt64LE(0).toString(), raw.readBigInt64LE(8).toString()]),
  health: {
    server: await call(doctor, "Check", {}),
    model: await call(doctor, "Check", { service: "digits" }),
    unknown: await call(doctor, "Check", { service: "nobody" }),
    watched: await watch("digits"),
  },
  refusals: {
    model: await call(server, "ModelInfer", { ...digits([image], [digit]), model_name: "nobody" }),
    shape: await call(server, "ModelInfer", digits([{ ...image, shape: [1, 64] }], [digit])),
    bytes: await call(server, "ModelInfer", digits([image], [digit.subarray(1)])),
    parameter: await call(server, "ModelInfer", digits([image], [digit], sequence)),
  },
};
console.log(JSON.stringify(found));
server.close();
doctor.close();
