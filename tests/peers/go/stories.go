// Runs the stories of the client, and tells the test how each of them ended.
//
// A story is one rule that a user of the client relies on. For each, one JSON line goes
// to standard output; a story that fails does not keep the others from being told.

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"time"
)

const (
	expiryMax = 20 * time.Second
	// More than the throttled server, which takes one a second, lets through at once.
	hurriedCalls = 6
	patientCalls = 3
)

// world describes the server, as the test has written it down.
type world struct {
	URL           string
	CA            string
	OtherCA       string `json:"other_ca"`
	Instance      string
	OtherInstance string `json:"other_instance"`
	Credentials   map[string]string
	Throttled     *world
}

type story struct {
	name string
	tell func(*user)
}

func readWorld(path string) (found world, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return found, err
	}
	return found, json.Unmarshal(content, &found)
}

// tellAll runs every story and returns whether all of them ended well.
func tellAll(stories []story, described world) bool {
	good := true
	for _, each := range stories {
		fault := tellOne(each, described)
		good = good && fault == ""
		line, err := json.Marshal(map[string]string{"story": each.name, "fault": fault})
		must(err)
		fmt.Println(string(line))
	}
	return good
}

func tellOne(each story, described world) (fault string) {
	defer func() {
		if found := recover(); found != nil {
			fault = fmt.Sprintf("%v\n%s", found, debug.Stack())
		}
	}()
	each.tell(newUser(described, "Administrator"))
	return ""
}

// must ends the story unless there was no error.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// check ends the story unless something holds.
func check(holds bool, otherwise string, facts ...any) {
	if !holds {
		panic(fmt.Sprintf(otherwise, facts...))
	}
}

// same ends the story unless two values are equal.
func same[T comparable](got, wanted T) {
	check(got == wanted, "got %v, wanted %v", got, wanted)
}

// waitFor asks a condition until it holds, for 20 seconds at most.
func waitFor(condition func() bool) {
	deadline := time.Now().Add(expiryMax)
	for !condition() {
		check(time.Now().Before(deadline), "the condition never held")
		time.Sleep(200 * time.Millisecond)
	}
}

func main() {
	described, err := readWorld(os.Args[1])
	must(err)
	if !tellAll(append(append(keyStories, wrappingStories...), refusalStories...), described) {
		os.Exit(1)
	}
}
