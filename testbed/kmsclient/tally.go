package main

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const textsMax = 5

// tally counts calls of any number of goroutines.
type tally struct {
	started  atomic.Int64
	answered atomic.Int64
	failed   atomic.Int64

	lock      sync.Mutex
	failures  int
	texts     []string
	latencies []time.Duration
}

// tallied is what became of the calls; those of the warm-up count only if they failed.
type tallied struct {
	Calls    int      `json:"calls"`
	Failures int      `json:"failures"`
	Texts    []string `json:"texts"`   // up to five different ones
	Latency  latency  `json:"latency"` // of the calls that did not fail
}

// latency has percentiles in microseconds.
type latency struct {
	P50 int64 `json:"p50"`
	P90 int64 `json:"p90"`
	P99 int64 `json:"p99"`
	Max int64 `json:"max"`
}

// make makes one call and counts it.
func (t *tally) make(begin time.Time, one call) {
	started := time.Now()
	err := one()
	length := time.Since(started)
	if err == nil {
		t.answered.Add(1)
	} else {
		t.failed.Add(1)
	}
	t.lock.Lock()
	defer t.lock.Unlock()
	switch {
	case err != nil:
		t.failures++
		if len(t.texts) < textsMax && !slices.Contains(t.texts, err.Error()) {
			t.texts = append(t.texts, err.Error())
		}
	case !started.Before(begin):
		t.latencies = append(t.latencies, length)
	}
}

func (t *tally) sum() tallied {
	t.lock.Lock()
	defer t.lock.Unlock()
	slices.Sort(t.latencies)
	at := func(percent int) int64 {
		if len(t.latencies) == 0 {
			return 0
		}
		return t.latencies[min(len(t.latencies)-1, len(t.latencies)*percent/100)].Microseconds()
	}
	return tallied{
		Calls:    len(t.latencies) + t.failures,
		Failures: t.failures,
		Texts:    append([]string{}, t.texts...),
		Latency:  latency{at(50), at(90), at(99), at(100)},
	}
}
