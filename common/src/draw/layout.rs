//! Which column and row a node is drawn in: layers from the root, rows by the mean of their neighbours'.

/// The nodes `0..count` in columns, each from top to bottom. Edges that lead back, and nodes that nothing reaches, do not
/// disturb it.
pub(super) fn layers(count: usize, edges: &[(usize, usize)], root: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return Vec::new();
    }
    let forward = without_cycles(count, edges, root);
    let mut depth = vec![0; count];
    // The longest way to each node; as there are no cycles this settles after at most `count` rounds.
    for _ in 0..count {
        let mut moved = false;
        for (from, to) in &forward {
            if depth[*to] <= depth[*from] {
                depth[*to] = depth[*from] + 1;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    let deepest = depth.iter().max().copied().unwrap_or(0);
    let mut layers = vec![Vec::new(); deepest + 1];
    for node in 0..count {
        layers[depth[node]].push(node);
    }
    let mut row = vec![0.0_f64; count];
    let number = |layers: &[Vec<usize>], row: &mut Vec<f64>| {
        for layer in layers {
            for (i, node) in layer.iter().enumerate() {
                #[expect(clippy::cast_precision_loss, reason = "a row number is small")]
                let at = i as f64 - layer.len() as f64 / 2.0;
                row[*node] = at;
            }
        }
    };
    number(&layers, &mut row);
    for round in 0..8 {
        let inward = round % 2 == 0;
        let mut sum = vec![(0.0, 0.0); count];
        for (from, to) in &forward {
            let (node, neighbour) = if inward { (*to, *from) } else { (*from, *to) };
            sum[node].0 += row[neighbour];
            sum[node].1 += 1.0;
        }
        let want: Vec<f64> = (0..count).map(|n| if sum[n].1 > 0.0 { sum[n].0 / sum[n].1 } else { row[n] }).collect();
        for layer in &mut layers {
            layer.sort_by(|a, b| want[*a].total_cmp(&want[*b]).then(a.cmp(b)));
        }
        number(&layers, &mut row);
    }
    layers
}

fn without_cycles(count: usize, edges: &[(usize, usize)], root: usize) -> Vec<(usize, usize)> {
    let mut leaving = vec![Vec::new(); count];
    for (from, to) in edges {
        leaving[*from].push(*to);
    }
    // 0: not seen, 1: on the way, 2: done. An edge to a node on the way closes a cycle.
    let mut state = vec![0_u8; count];
    let mut forward = Vec::new();
    for start in std::iter::once(root).chain(0..count) {
        if state[start] != 0 {
            continue;
        }
        state[start] = 1;
        let mut stack = vec![(start, 0)];
        while let Some((node, next)) = stack.last_mut() {
            match leaving[*node].get(*next) {
                Some(&to) => {
                    *next += 1;
                    if state[to] != 1 {
                        forward.push((*node, to));
                    }
                    if state[to] == 0 {
                        state[to] = 1;
                        stack.push((to, 0));
                    }
                }
                None => {
                    state[*node] = 2;
                    stack.pop();
                }
            }
        }
    }
    forward
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_lead_to_the_right_and_cycles_do_no_harm() {
        let edges = [(0, 1), (0, 2), (1, 3), (2, 3), (3, 0), (4, 4)];
        let layers = layers(5, &edges, 0);
        let column = |node: usize| layers.iter().position(|layer| layer.contains(&node));
        assert!(column(0) < column(1) && column(1) < column(3) && column(2) < column(3));
        assert_eq!(layers.iter().map(Vec::len).sum::<usize>(), 5);
    }
}
