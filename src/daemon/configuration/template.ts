/** The commented configuration that `changeover init` writes. It has to load as it stands. */
export const CONFIGURATION_TEMPLATE = `# Changeover configuration. Every key is described in docs/configuration.md.
# Relative paths start at the folder of this file. Check it with: changeover doctor --config FILE

runDirectory: /run/changeover           # sockets, lock, scratch
stateDirectory: /var/lib/changeover     # state store, write logs, evidence of every run

network:
  uplinks:
    - name: co0                         # a TAP interface, created when absent
      kind: tap
      mtu: 1500
      hostAddress: 10.77.0.1/24         # the host's own address on it; leave out to configure it yourself
  probe:                                # the product's own client for health checks
    address: 10.77.0.254/24
    mac: "02:00:00:00:00:fe"

services:
  - name: ledger
    address: 10.77.0.11/24              # what clients use
    second: 10.77.0.12/24               # the old partition's address while its connections drain (strategy overlap)
    gateway: 10.77.0.1
    active: A                           # who serves at the first start
    health:
      http: {port: 80, path: /version, expectStatus: 200, timeoutMs: 1000}

# A standby has to cover the active: processor share, memory, disks and network devices.
partitions:
  - id: A
    kind: process
    processor: {cpu: 0, sharePercent: 50}
    memoryMiB: 256
    disks:
      - {role: system, path: A-system.img, sizeMiB: 64}
      - {role: application, path: A-application.img, sizeMiB: 64}
    network:
      - {name: net1, mac: "02:00:00:00:00:0a"}
  - id: B
    kind: process
    processor: {cpu: 0, sharePercent: 50}
    memoryMiB: 256
    disks:
      - {role: system, path: B-system.img, sizeMiB: 64}
      - {role: application, path: B-application.img, sizeMiB: 64}
    network:
      - {name: net1, mac: "02:00:00:00:00:0b"}

patching:
  sources:
    - {name: local, kind: directory, path: ./patches, publicKey: key.pem}
  allowUnsigned: false
  malwareScanner: none                  # or {clamd: /run/clamav/clamd.ctl}
  allowUnscanned: true                  # with malwareScanner none a run is refused unless this is true
  strategy: auto                        # auto, overlap, hold, drain
  budget: {pauseMs: 300, copyMs: 600000, quiesceMs: 200}
  lateWrites: refuse                    # or set-aside
  probation: {startWaitMs: 0, stabilityMs: 5000, tries: 3, rollbackOnFailure: true}
`;
