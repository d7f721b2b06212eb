// The types of the server's JSON. A missing key means that the value was not measured.

export interface Row {
  id: string;
  number: number;
  name: string;
  parent?: string;
  kind: string;
  stage: string;
  state: string;
  loss?: number;
  loss_stderr?: number;
  train_loss?: number;
  benchmark?: number;
  benchmark_stderr?: number;
  judge?: number;
  fitness?: number;
  fitness_low?: number;
  fitness_high?: number;
  parameters?: number;
  seconds?: number;
  tokens_per_second?: number;
  peak_memory?: number;
  flops?: number;
  state_size?: number;
  stopped?: string;
  seeds?: number;
  components?: string[];
  moves?: string[];
  scores?: Record<string, number>;
  worker?: string;
  outcome?: string;
  reason?: string;
}

export interface Budget {
  candidates?: number;
  seconds?: number;
  gpu_seconds?: number;
  tokens?: string;
  money?: number;
}

export interface Status {
  run: string;
  phase: string;
  origin: string;
  stop_reason: string;
  states: Record<string, number>;
  sequence: string;
  events: string;
  started?: string;
  changed?: string;
  in_flight: number;
  proposals_ended: number;
  climbing: number;
  dead_letters: number;
  loss_of_root?: number;
  spent?: { seconds: number; training_seconds: number; gpu_seconds: number; tokens: string; money: number; flops: number };
  settings?: {
    scale: string; mind: string; seats: number; seed: string; fitness: string; parent_policy: string; promotion: string;
    baselines: string[]; budget?: Budget; scale_overrides?: Record<string, string>; candidate_seeds: number;
    pool?: { size: number; parents: number; references: number };
    policies?: { objectives?: string };
  };
}

export interface Fact {
  sequence: number;
  time: string;
  fact: string;
  candidate: string | null;
  name: string | null;
  service: string;
  loss: number | null;
  benchmark: number | null;
  judge: number | null;
  fitness: number | null;
  reason: string | null;
}

export interface Training {
  candidate: string;
  seed: number;
  step: number;
  steps: number;
  tokens_per_second: number;
  seconds_left: number;
  points: [number, number][];
}

export interface Work { candidate: string; service: string; waits_for: string; attempt: number; since: number }

export interface Run { run: string; phase: string; origin: string }

export type Curve = [number, number][];
export interface Curves { train: Curve; heldout: Curve }

export interface Interval { low: number; high: number; level?: number }

export interface Difference {
  id: string;
  name: string;
  row: Row;
  loss: { mean: number; low: number; high: number; seeds: number; words: string } | null;
  benchmark: { mean: number; low: number; high: number } | null;
}

export interface Idea { text?: string; origin?: string; source?: string }

export interface Seed {
  seed?: string;
  loss?: number;
  bits_per_byte?: number;
  loss_stderr?: number;
  curve?: { step?: number; train_loss?: number; loss?: number }[];
  scores?: { task: string; metric?: string; value?: number; stderr?: number; items?: number }[];
  part_losses?: { part: string; loss?: number; share?: number }[];
  measurements?: Record<string, unknown>;
  stopped?: string;
}

export interface TrainingRecord {
  seeds?: Seed[];
  loss?: number;
  loss_stderr?: number;
  benchmark?: number;
  benchmark_stderr?: number;
  worker?: string;
  program?: string;
  revisions?: { program?: string; error?: string; repair?: string }[];
}

export interface CandidateRecord {
  id: string;
  run: string;
  kind: string;
  state: string;
  stage?: string;
  request?: { number?: number; baseline?: string; mind?: string; ablation_of?: string; without_component?: string };
  proposal?: {
    name?: string; motivation?: string; program?: string; parent?: string; references?: string[]; components?: string[];
    moves?: string[]; ideas?: Idea[]; mind?: string; prompt_version?: string;
    cognition?: { entry: string; similarity?: number; title?: string }[];
    nearest?: { candidate: string; similarity?: number; of?: string }[];
    novelty_history?: string[];
    check?: {
      passed?: boolean; seconds?: number; parameters?: string; isolation?: string;
      verdicts?: { probe: string; outcome: string; message?: string; evidence?: Record<string, unknown> }[];
    };
  };
  training?: TrainingRecord;
  verdict?: {
    raw?: number; spread?: number; justification?: string; judge?: string; baseline?: string; absent_because?: string;
    scores?: { performance?: number; innovation?: number; complexity?: number };
    fitness?: { version?: string; value?: number; loss_term?: number; benchmark_term?: number; judge_term?: number; interval?: Interval };
  };
  analysis?: {
    design_evaluation?: string; results?: string; expectation?: string; explanation?: string; synthesis?: string;
    components?: string[]; ideas?: Idea[]; analyst?: string;
    cognition?: { entry: string; similarity?: number; title?: string }[];
  };
  rejection?: { stage?: string; reason?: string; evidence?: Record<string, unknown> };
  calls?: {
    role?: string; model?: string; prompt_tokens?: string; completion_tokens?: string; seconds?: number; price?: number; error?: string;
    prompt?: { sha256: string }; answer?: { sha256: string };
  }[];
  verifications?: { stage?: string; rung?: number; training?: TrainingRecord }[];
  discovery?: {
    confirmed?: boolean; outcome?: string; effect?: number; interval?: Interval; p_value?: number; adjusted_p_value?: number;
    tried?: number; control?: string; reason?: string; method?: string; seeds?: string[]; controls?: string[]; stage?: string;
  };
  retries?: number;
}

export interface CandidateAnswer {
  record: CandidateRecord;
  row: Row;
  parent: CandidateRecord | null;
  controls: { row: Row; curve: Curves }[];
  compared: Difference[];
}

export interface Link {
  sequence: number; id: string; service: string; sha256: string; accepted: boolean; refused_because: string; time: string;
}
