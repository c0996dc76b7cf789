package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"
)

const progressInterval = 50 * time.Millisecond

type plan struct {
	provider
	mode        string
	concurrency int
	calls       int64
	seconds     float64
	warmUp      float64
	seeds       int
	pause       time.Duration
	statusEvery time.Duration
}

func parsePlan(arguments []string) (*plan, error) {
	var p plan
	set := flag.NewFlagSet("load", flag.ContinueOnError)
	p.provider.flags(set)
	set.StringVar(&p.mode, "mode", "mixed", "encrypt, decrypt, status, or mixed: encrypt and decrypt in turn")
	set.IntVar(&p.concurrency, "concurrency", 1, "calls in flight, all on one connection")
	set.Int64Var(&p.calls, "calls", 0, "stop after so many calls; 0: no bound")
	set.Float64Var(&p.seconds, "seconds", 0, "stop after so many seconds of measuring; 0: no bound")
	set.Float64Var(&p.warmUp, "warm-up", 0, "seconds of load before measuring starts")
	set.IntVar(&p.seeds, "seeds", 1, "different ciphertexts for decrypt, made before the load")
	set.DurationVar(&p.pause, "pause", 0, "how long each of the concurrent callers rests between calls")
	set.DurationVar(&p.statusEvery, "status-every", 0, "also ask Status so often; 0: never")
	if err := set.Parse(arguments); err != nil {
		return nil, err
	}
	if p.socket == "" || p.concurrency < 1 || p.seeds < 1 {
		return nil, errors.New("--socket, a --concurrency and --seeds of at least 1 are needed")
	}
	return &p, nil
}

// report is what load prints.
type report struct {
	tallied
	Status  *tallied `json:"status,omitempty"` // of the polls beside the load
	Health  []string `json:"health"`           // different healthz texts, in order of appearance
	KeyIDs  []string `json:"key_ids"`          // of all answers; a value again after another one counts
	Seconds float64  `json:"seconds"`
	RPS     float64  `json:"rps"`
}

// load keeps a provider busy. Calls that are under way at its end are waited for.
func load(stopped context.Context, arguments []string) (any, error) {
	p, err := parsePlan(arguments)
	if err != nil {
		return nil, err
	}
	client, err := p.dial()
	if err != nil {
		return nil, err
	}
	caller := &caller{client: client}
	sealed, err := caller.prepare(p)
	if err != nil {
		return nil, err
	}
	begin := time.Now().Add(seconds(p.warmUp))
	running, stop := context.WithCancel(stopped)
	if p.seconds > 0 {
		running, stop = context.WithDeadline(stopped, begin.Add(seconds(p.seconds)))
	}
	defer stop()

	var work, polls tally
	var everybody sync.WaitGroup
	if p.statusEvery > 0 {
		everybody.Go(func() { pace(running, p.statusEvery, begin, &polls, caller.status) })
	}
	everybody.Go(func() { tellProgress(running, &work) })
	var callers sync.WaitGroup
	for number := range p.concurrency {
		callers.Go(func() { repeat(running, p, begin, &work, caller.work(p.mode, sealed, number)) })
	}
	callers.Wait()
	length := time.Since(begin).Seconds()
	stop()
	everybody.Wait()

	result := &report{tallied: work.sum(), Seconds: length, Health: caller.health, KeyIDs: caller.keyIDs}
	result.RPS = float64(result.Calls-result.Failures) / length
	if p.statusEvery > 0 {
		status := polls.sum()
		result.Status = &status
	}
	return result, nil
}

// repeat makes calls one after the other until the load ends.
func repeat(running context.Context, p *plan, begin time.Time, work *tally, one call) {
	for running.Err() == nil {
		if p.calls > 0 && work.started.Add(1) > p.calls {
			return
		}
		work.make(begin, one)
		if p.pause > 0 {
			rest(running, p.pause)
		}
	}
}

// pace makes a call at each tick; one that takes longer delays the next one.
func pace(running context.Context, every time.Duration, begin time.Time, polls *tally, one call) {
	for ; running.Err() == nil; rest(running, every) {
		polls.make(begin, one)
	}
}

// tellProgress lets a test wait until the load has got somewhere.
func tellProgress(running context.Context, work *tally) {
	for ; running.Err() == nil; rest(running, progressInterval) {
		fmt.Fprintln(os.Stderr, "answered", work.answered.Load(), "failed", work.failed.Load())
	}
}

func rest(running context.Context, length time.Duration) {
	select {
	case <-running.Done():
	case <-time.After(length):
	}
}

func seconds(count float64) time.Duration {
	return time.Duration(count * float64(time.Second))
}
