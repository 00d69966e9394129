// Read-containers looks images up in Docker configs the way skopeo, podman and
// buildah do.
//
// It exists to prove that these tools find the credential in a pull secret: the
// library that all three share reads each config as its auth file.
//
// Standard input is a JSON array of {"config", "image"}; standard output is an
// array of the same length, of {"credentials"} (one or none: the library
// settles on one) or {"error"}.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/pkg/docker/config"
	"go.podman.io/image/v5/types"
)

// question asks which credentials a Docker config holds for an image.
type question struct {
	Config string `json:"config"`
	Image  string `json:"image"`
}

type credential struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// answer has credentials (perhaps none) or an error, never both.
type answer struct {
	Credentials []credential
	Err         error
}

func (a answer) MarshalJSON() ([]byte, error) {
	if a.Err != nil {
		return json.Marshal(map[string]string{"error": a.Err.Error()})
	}
	return json.Marshal(map[string][]credential{"credentials": a.Credentials})
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "read-containers:", err)
		os.Exit(1)
	}
}

func run() error {
	var questions []question
	if err := json.NewDecoder(os.Stdin).Decode(&questions); err != nil {
		return fmt.Errorf("reading the questions: %w", err)
	}
	folder, err := os.MkdirTemp("", "read-containers-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()

	// An auth file of its own and an empty registries.conf, so that no file of
	// the user or the system answers instead of the config.
	system := &types.SystemContext{
		AuthFilePath:                filepath.Join(folder, "auth.json"),
		SystemRegistriesConfPath:    filepath.Join(folder, "registries.conf"),
		SystemRegistriesConfDirPath: filepath.Join(folder, "registries.conf.d"),
	}
	if err := os.WriteFile(system.SystemRegistriesConfPath, nil, 0o600); err != nil {
		return err
	}

	answers := make([]answer, 0, len(questions))
	for _, q := range questions {
		if err := os.WriteFile(system.AuthFilePath, []byte(q.Config), 0o600); err != nil {
			return err
		}
		answers = append(answers, lookUp(system, q.Image))
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		return fmt.Errorf("writing the answers: %w", err)
	}
	return nil
}

// lookUp finds the credential for an image as a pull of it would.
func lookUp(system *types.SystemContext, image string) answer {
	name, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return answer{Err: err}
	}
	found, err := config.GetCredentialsForRef(system, name)
	if err != nil {
		return answer{Err: err}
	}
	// The library returns an empty struct for "none".
	if found == (types.DockerAuthConfig{}) {
		return answer{Credentials: []credential{}}
	}
	return answer{Credentials: []credential{{found.Username, found.Password}}}
}
