#pragma once
/// The digest of weights as files hold them, whoever trains with them and in whatever type: by it, what a frozen
/// network once computed is known to be that network's.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tessera/comm/communicator.hpp"
#include "tessera/io/tensor_source.hpp"
#include "tessera/nn/param.hpp"

namespace tessera::shard {

/// Order-free 64-bit digest of the names, shapes and values (in fp32) of `params`, read from `source`; equal for every
/// number of ranks and every split of the files. `name_of` gives the name that counts, so that it does not depend on
/// where in a model a network sits; `source` is asked for the parameter's own. Each element is read by one rank.
/// Collective. Throws RequestError on every rank when the source lacks a tensor or has it in another shape.
std::uint64_t source_digest(const io::TensorSource& source, const std::vector<nn::Param>& params,
                            const std::function<std::string(const nn::ParamState&)>& name_of, comm::Communicator& comm);

}  // namespace tessera::shard
