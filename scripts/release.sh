#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# "make release": writes all files of a release to dist/.
#
#   scripts/release.sh VERSION OS/ARCH...
#
# The bytes depend only on the source, the version, the time of the last commit
# (or $SOURCE_DATE_EPOCH) and the version of Go.
. "$(dirname "$0")/lib.sh"

usage="usage: scripts/release.sh VERSION OS/ARCH..., for example: scripts/release.sh v0.1.0 linux/amd64"
[ $# -ge 2 ] || die "$usage"
version=$1
shift
# No "+build", because the tag of an image cannot have one.
[[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] ||
  die "VERSION=$version: must be a semantic version with a leading \"v\", like v0.1.0 or v0.2.0-rc.1"

if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
  SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) ||
    die "this is no clone with a commit: set SOURCE_DATE_EPOCH to the time of the files, in seconds since 1970"
fi
export SOURCE_DATE_EPOCH

# Keep the machine and the user out of the program. The commit is left out too:
# with it, a source archive, a clone with an extra file and a clone without tags
# would each give different bytes.
export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -mod=readonly"
export GOAMD64=v1 GOARM64=v8.0 GOARM=6 GOPPC64=power8 GOFIPS140=off
unset GOEXPERIMENT

sums() { # prints the checksums of files, in the form of sha256sum
  if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi
}

# release PROGRAM MODULE-FOLDER PACKAGE OTHER-FILE...: writes archives, bills of
# materials and the image of a program.
release() {
  local program=$1 module=$2 package=$3 released=${1}_${version#v}
  local platform os arch ending kind binary images=()
  shift 3
  for platform in "${platforms[@]}"; do
    os=${platform%/*} arch=${platform#*/} ending='' kind=tar.gz
    if [ "$os" = windows ]; then ending=.exe kind=zip; fi
    echo "building $released for $platform ..."
    binary=dist/${os}_$arch/$program$ending
    (cd "$module" && GOOS=$os GOARCH=$arch "${GO:-go}" build -ldflags="-s -w -X main.version=$version" -o "$OLDPWD/$binary" "$package")
    .bin/pack archive "dist/${released}_${os}_$arch.$kind" "$binary" "$@"
    scripts/bill.sh "$version" "$binary" "dist/${released}_${os}_$arch.cdx.json"
    case $platform in
      linux/arm) images+=("linux/arm/v$GOARM=$binary") ;;
      linux/*) images+=("$platform=$binary") ;;
    esac
  done
  if [ ${#images[@]} -gt 0 ]; then
    .bin/pack image "dist/oci/$program" "dist/${released}_oci.tar" "$version" "$program" "${images[@]}"
  fi
}

platforms=("$@")
rm -rf dist
mkdir -p dist
release vault-plugin-secrets-regcred . ./cmd/vault-plugin-secrets-regcred LICENSE README.md CHANGELOG.md scripts/preflight.sh
release regcred cmd/regcred . LICENSE docs/client/README.md CHANGELOG.md
.bin/pack chart "dist/regcred-node-${version#v}.tgz" deploy/regcred-node "$version"

# SHA256SUMS lists the files for download, and is signed. SHA256SUMS.binaries
# lists the plugin's program, one line for each platform, because Vault registers a
# plugin by the checksum of the program.
cd dist
sums ./*_*/vault-plugin-secrets-regcred* | sed 's#  \./#  #' >SHA256SUMS.binaries
sums vault-plugin-secrets-regcred_* regcred_* regcred-node-* SHA256SUMS.binaries >SHA256SUMS
echo
cat SHA256SUMS.binaries SHA256SUMS
