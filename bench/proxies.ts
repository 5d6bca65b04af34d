/** Peers of C1 and C2 that stand before two servers and lead new requests from the one to the other. */
import { writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { Bench, Stage } from './framework/index.ts';
import { missing } from './framework/index.ts';

/** `address:port` of each. */
export type Servers = readonly [string, string];

/** HAProxy on port 8080; the function that switches to the other server and back. */
export async function startHaproxy(
  bench: Bench,
  stage: Stage,
  address: string,
  servers: Servers,
): Promise<() => Promise<void>> {
  const lacking = missing('haproxy');
  if (lacking !== undefined) throw new Error(lacking);
  const socket = join(bench.scratch, 'haproxy.sock');
  const file = join(bench.scratch, 'haproxy.cfg');
  writeFileSync(
    file,
    `global
  stats socket ${socket} level admin
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend in
  bind ${address}:8080
  default_backend hosts
backend hosts
  server a ${servers[0]}
  server b ${servers[1]} disabled
`,
  );
  const answers = () =>
    command(socket, 'show info').then(
      (text) => text !== '',
      () => false,
    );
  await stage.start(['haproxy', '-db', '-f', file], { ready: answers });
  let [from, to] = ['a', 'b'];
  return async () => {
    await command(socket, `set server hosts/${to} state ready; set server hosts/${from} state maint`);
    [from, to] = [to!, from!];
  };
}

/**
 * nginx on port 8081; the function that writes the other server into its configuration and has it read again, as an administrator
 * does: new workers take new connections, the old ones finish what they have.
 */
export async function startNginx(
  bench: Bench,
  stage: Stage,
  address: string,
  servers: Servers,
): Promise<() => Promise<void>> {
  const lacking = missing('nginx');
  if (lacking !== undefined) throw new Error(lacking);
  const file = join(bench.scratch, 'nginx.conf');
  const configure = (server: string) =>
    writeFileSync(
      file,
      `user root;
daemon off;
worker_processes 1;
pid ${bench.scratch}/nginx.pid;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path ${bench.scratch}/nginx-body;
  proxy_temp_path ${bench.scratch}/nginx-proxy;
  keepalive_requests 1000000;
  upstream hosts {
    server ${server};
    keepalive 64;
  }
  server {
    listen ${address}:8081;
    location / {
      proxy_pass http://hosts;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
  }
}
`,
    );
  let at: 0 | 1 = 0;
  configure(servers[at]);
  const argv = ['nginx', '-e', 'stderr', '-c', file];
  await stage.start(argv, { ready: () => accepts(address, 8081) });
  return async () => {
    at = at === 0 ? 1 : 0;
    configure(servers[at]);
    await stage.run([...argv, '-s', 'reload']);
  };
}

function accepts(host: string, port: number): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect({ host, port }, () => {
      socket.destroy();
      done(true);
    });
    socket.on('error', () => done(false));
  });
}

function command(path: string, line: string): Promise<string> {
  return new Promise((done, failed) => {
    let answer = '';
    const socket = connect(path, () => socket.write(`${line}\n`));
    socket.on('data', (data) => {
      answer += data;
    });
    socket.on('error', failed);
    socket.on('close', () => done(answer));
  });
}
