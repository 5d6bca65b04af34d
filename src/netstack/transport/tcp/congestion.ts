/**
 * Congestion control as a strategy: it owns cwnd and ssthresh (bytes), the sender tells it what happened. Recovery itself
 * (what to send again) is not its business: see sack.ts and send.ts.
 */
export const CONGESTION_NAMES = ['cubic', 'newreno'] as const;
export type CongestionName = (typeof CONGESTION_NAMES)[number];

export interface CongestionControl {
  readonly name: CongestionName;
  cwnd: number;
  ssthresh: number;
  /** `acked` new bytes were acknowledged outside of recovery, while the window was in full use. */
  onAck(acked: number, smss: number, srttMs: number, nowMs: number): void;
  /** Loss was detected by duplicate or selective acknowledgements; `flight` bytes were outstanding. */
  onLoss(flight: number, smss: number, nowMs: number): void;
  /** The retransmission timer expired for the first time for this data. */
  onTimeout(flight: number, smss: number, nowMs: number): void;
  /** Nothing was sent for longer than an RTO (RFC 5681 section 4.1). */
  onIdle(initialWindow: number): void;
}

/** RFC 5681 with RFC 3465 byte counting (L = 2). */
export class NewReno implements CongestionControl {
  readonly name = 'newreno';
  cwnd: number;
  ssthresh = 0x7fffffff;
  #counted = 0;

  constructor(initialWindow: number) {
    this.cwnd = initialWindow;
  }

  onAck(acked: number, smss: number): void {
    if (this.cwnd < this.ssthresh) {
      // Section 3.1: limited, so that one ACK for a whole window does not double it twice.
      this.cwnd += Math.min(acked, Math.max(this.cwnd, 2 * smss));
      return;
    }
    this.#counted += acked;
    if (this.#counted >= this.cwnd) {
      this.#counted -= this.cwnd;
      this.cwnd += smss;
    }
  }

  onLoss(flight: number, smss: number): void {
    this.ssthresh = Math.max(flight >>> 1, 2 * smss);
    this.cwnd = this.ssthresh;
    this.#counted = 0;
  }

  onTimeout(flight: number, smss: number): void {
    this.ssthresh = Math.max(flight >>> 1, 2 * smss);
    this.cwnd = smss;
    this.#counted = 0;
  }

  onIdle(initialWindow: number): void {
    this.cwnd = Math.min(this.cwnd, initialWindow);
  }
}

/** RFC 9438. Units inside as in the RFC: segments and seconds. */
const CUBIC_C = 0.4;
const CUBIC_BETA = 0.7;
const ALPHA_CUBIC = (3 * (1 - CUBIC_BETA)) / (1 + CUBIC_BETA);

export class Cubic implements CongestionControl {
  readonly name = 'cubic';
  cwnd: number;
  ssthresh = 0x7fffffff;
  #wMax = 0;
  #k = 0;
  /** Start of the current congestion avoidance stage; negative = none. */
  #epochMs = -1;
  #wEst = 0;
  /** cwnd just before the last reduction, bytes. */
  #cwndPrior = 0;

  constructor(initialWindow: number) {
    this.cwnd = initialWindow;
  }

  onAck(acked: number, smss: number, srttMs: number, nowMs: number): void {
    if (this.cwnd < this.ssthresh) {
      this.cwnd += acked;
      return;
    }
    const window = this.cwnd / smss;
    if (this.#epochMs < 0) {
      // Section 4.2: K from the window at the start of the stage.
      this.#epochMs = nowMs;
      if (window < this.#wMax) {
        this.#k = Math.cbrt((this.#wMax - window) / CUBIC_C);
      } else {
        this.#wMax = window;
        this.#k = 0;
      }
      this.#wEst = window;
    }
    const seconds = (nowMs - this.#epochMs + srttMs) / 1000;
    const distance = seconds - this.#k;
    const wCubic = CUBIC_C * distance * distance * distance + this.#wMax;
    const target = Math.min(Math.max(wCubic, window), 1.5 * window);
    // Section 4.3: never slower than Reno would be.
    const alpha = this.cwnd >= this.#cwndPrior ? 1 : ALPHA_CUBIC;
    this.#wEst += alpha * (acked / this.cwnd);
    const next = Math.max(window + ((target - window) / window) * (acked / smss), this.#wEst);
    this.cwnd = Math.max(this.cwnd, Math.round(next * smss));
  }

  onLoss(flight: number, smss: number): void {
    const window = this.cwnd / smss;
    this.#cwndPrior = this.cwnd;
    // Section 4.7, fast convergence: make room for a newcomer.
    this.#wMax = window < this.#wMax ? (window * (1 + CUBIC_BETA)) / 2 : window;
    this.ssthresh = Math.max(Math.floor(Math.min(this.cwnd, flight) * CUBIC_BETA), 2 * smss);
    this.cwnd = this.ssthresh;
    this.#epochMs = -1;
  }

  onTimeout(flight: number, smss: number): void {
    this.onLoss(flight, smss);
    this.cwnd = smss;
  }

  onIdle(initialWindow: number): void {
    this.cwnd = Math.min(this.cwnd, initialWindow);
    this.#epochMs = -1;
  }
}

export function congestionControl(name: CongestionName, initialWindow: number): CongestionControl {
  return name === 'cubic' ? new Cubic(initialWindow) : new NewReno(initialWindow);
}
