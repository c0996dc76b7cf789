// Command loadclient sends POST requests over TLS from a number of connections that
// are kept alive, and prints what it measured as one JSON object.
//
// It reads its plan as JSON from standard input. Every connection goes through the
// requests of the plan in an order of its own. An answer with another status than the
// wanted one counts as failed and is not part of the latencies.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"sort"
	"sync"
	"time"
)

// Plan is what to send, and for how long.
type Plan struct {
	CA          string            `json:"ca"`          // PEM file of the server's authority
	Headers     map[string]string `json:"headers"`     // sent with every request
	Requests    []Request         `json:"requests"`    // at least one
	Connections int               `json:"connections"` // each sends one request at a time
	WarmUp      float64           `json:"warm_up"`     // seconds before measuring starts
	Seconds     float64           `json:"seconds"`     // seconds of measuring
	Status      int               `json:"status"`      // the wanted status code
}

// Request is one request of a plan; its method is POST.
type Request struct {
	URL  string `json:"url"`
	Body string `json:"body"`
}

// Report is what was measured; latencies are in milliseconds.
type Report struct {
	Done    int            `json:"done"`
	Failed  int            `json:"failed"`
	Seconds float64        `json:"seconds"`
	P50     float64        `json:"p50"`
	P99     float64        `json:"p99"`
	Max     float64        `json:"max"`
	Faults  map[string]int `json:"faults"`
}

type tally struct {
	latencies []time.Duration
	faults    map[string]int
}

func main() {
	report, err := run(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "loadclient:", err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(report)
}

func run(input io.Reader) (*Report, error) {
	var plan Plan
	if err := json.NewDecoder(input).Decode(&plan); err != nil {
		return nil, err
	}
	if len(plan.Requests) == 0 || plan.Connections < 1 {
		return nil, errors.New("the plan has no requests or no connections")
	}
	pem, err := os.ReadFile(plan.CA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("the CA file holds no certificate")
	}

	begin := time.Now().Add(seconds(plan.WarmUp))
	end := begin.Add(seconds(plan.Seconds))
	tallies := make([]tally, plan.Connections)
	var all sync.WaitGroup
	for number := range tallies {
		all.Add(1)
		go func() {
			defer all.Done()
			tallies[number] = send(&plan, roots, int64(number), begin, end)
		}()
	}
	all.Wait()
	return summarise(tallies, plan.Seconds), nil
}

func seconds(count float64) time.Duration {
	return time.Duration(count * float64(time.Second))
}

// send is one connection: a client of its own, so that connections are not shared.
func send(plan *Plan, roots *x509.CertPool, seed int64, begin, end time.Time) tally {
	client := &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{RootCAs: roots},
			MaxIdleConnsPerHost: 1,
			MaxConnsPerHost:     1,
		},
	}
	defer client.CloseIdleConnections()
	result := tally{faults: map[string]int{}}
	order := rand.New(rand.NewSource(seed)).Perm(len(plan.Requests))
	for turn := 0; ; turn++ {
		request := &plan.Requests[order[turn%len(order)]]
		started := time.Now()
		if started.After(end) {
			return result
		}
		fault := post(client, plan, request)
		if started.Before(begin) {
			continue
		}
		if fault != "" {
			result.faults[fault]++
			continue
		}
		result.latencies = append(result.latencies, time.Since(started))
	}
}

// post returns what went wrong, empty for nothing.
func post(client *http.Client, plan *Plan, request *Request) string {
	body := bytes.NewReader([]byte(request.Body))
	call, err := http.NewRequestWithContext(context.Background(), http.MethodPost, request.URL, body)
	if err != nil {
		return err.Error()
	}
	for name, value := range plan.Headers {
		call.Header.Set(name, value)
	}
	answer, err := client.Do(call)
	if err != nil {
		return "no answer"
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return "half an answer"
	}
	if answer.StatusCode != plan.Status {
		return answer.Status
	}
	return ""
}

func summarise(tallies []tally, length float64) *Report {
	report := &Report{Seconds: length, Faults: map[string]int{}}
	var latencies []time.Duration
	for _, one := range tallies {
		latencies = append(latencies, one.latencies...)
		for fault, count := range one.faults {
			report.Faults[fault] += count
			report.Failed += count
		}
	}
	sort.Slice(latencies, func(i, j int) bool { return latencies[i] < latencies[j] })
	report.Done = len(latencies)
	if len(latencies) > 0 {
		report.P50 = milliseconds(latencies[len(latencies)/2])
		report.P99 = milliseconds(latencies[len(latencies)*99/100])
		report.Max = milliseconds(latencies[len(latencies)-1])
	}
	return report
}

func milliseconds(length time.Duration) float64 {
	return float64(length) / float64(time.Millisecond)
}
